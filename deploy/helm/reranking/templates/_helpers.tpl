{{/* The name of all objects. It leaves room for "-pusher" and for what Kubernetes appends to a pod's name. */}}
{{- define "reranking.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $name = ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "reranking.pusher" -}}
{{ include "reranking.fullname" . }}-pusher
{{- end -}}

{{/* Its whole name: nginx looks names up by itself, without the domains that a pod's resolver appends. */}}
{{- define "reranking.pusherHost" -}}
{{ include "reranking.pusher" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{/* Labels of an object, which may change. A selector uses `app` alone, which never does. Helm adds its own. */}}
{{- define "reranking.labels" -}}
app: {{ .name }}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end -}}

{{- define "reranking.labels.server" -}}
{{ include "reranking.labels" (dict "root" . "name" (include "reranking.fullname" .) "component" "server") }}
{{- end -}}

{{- define "reranking.labels.pusher" -}}
{{ include "reranking.labels" (dict "root" . "name" (include "reranking.pusher" .) "component" "pusher") }}
{{- end -}}

{{- define "reranking.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-gpu" "" (gt (int .Values.gpu.count) 0))) }}
{{- end -}}

{{/* A setting as a variable has it: YAML's whole numbers are no floats, and a list has commas. */}}
{{- define "reranking.text" -}}
{{- if kindIs "slice" . -}}{{ join "," . }}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}{{ int64 . }}
{{- else -}}{{ . }}
{{- end -}}
{{- end -}}

{{/* Whether nginx speaks https; then probes and Prometheus do, too. */}}
{{- define "reranking.scheme" -}}
{{- if or .Values.settings.tls .Values.settings.tls_cert -}}HTTPS{{- else -}}HTTP{{- end -}}
{{- end -}}

{{- define "reranking.startupSeconds" -}}
{{- if gt (int .Values.gpu.count) 0 -}}{{ int .Values.gpu.startupSeconds }}{{- else -}}{{ int .Values.startupSeconds }}{{- end -}}
{{- end -}}

{{/* The variables of settings, secret ones by reference. Takes dict "root" and, for some alone, "names". */}}
{{- define "reranking.settings" -}}
{{- $names := .names -}}
{{- range $name, $value := .root.Values.settings }}
{{- if or (not $names) (has $name $names) }}
- {name: RERANK_{{ upper $name }}, value: {{ include "reranking.text" $value | quote }}}
{{- end }}
{{- end }}
{{- range $name, $from := .root.Values.secrets }}
{{- if or (not $names) (has $name $names) }}
- name: RERANK_{{ upper $name }}
  valueFrom: {secretKeyRef: {name: {{ $from.secret }}, key: {{ $from.key }}{{ if $from.optional }}, optional: true{{ end }}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* The Secret and key of the events between workers and the shared pusher. */}}
{{- define "reranking.eventsKey" -}}
secretKeyRef: {name: {{ .Values.pusher.eventsKey.secret | default (printf "%s-events" (include "reranking.fullname" .)) }}, key: {{ .Values.pusher.eventsKey.key }}}
{{- end -}}

{{/* Port of an address such as redis://host:6380/0, or the given one. */}}
{{- define "reranking.portOf" -}}
{{- $host := (urlParse .address).host -}}
{{- if regexMatch ":[0-9]+$" $host -}}{{ regexFind "[0-9]+$" $host }}{{- else -}}{{ .default }}{{- end -}}
{{- end -}}

{{/* How fast the number of pods changes. A new pod needs a minute to show in the figures. */}}
{{- define "reranking.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 30
  policies: [{type: Percent, value: 100, periodSeconds: 60}, {type: Pods, value: 2, periodSeconds: 60}]
scaleDown:
  stabilizationWindowSeconds: 300
  policies: [{type: Pods, value: 1, periodSeconds: 60}]
{{- end -}}
