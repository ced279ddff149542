"""The Helm chart agrees with the service. Nothing here needs Helm; tests/platforms renders the chart."""

import json

import helm_chart
import jsonschema
import pytest
import yaml

from webapp import __version__
from webapp.config.settings import Settings, is_secret

SCHEMA = json.loads(helm_chart.SCHEMA.read_text())

VALUES = yaml.safe_load((helm_chart.CHART / "values.yaml").read_text())


def test_the_chart_is_of_this_version():
    assert yaml.safe_load((helm_chart.CHART / "Chart.yaml").read_text())["appVersion"] == __version__


def test_the_schema_of_values_knows_the_settings_of_today():
    assert helm_chart.with_settings(SCHEMA) == SCHEMA, "run: scripts/build-manifests"


def test_a_setting_is_chosen_by_value_or_by_a_secret_or_set_by_the_chart():
    settings, secrets = (set(SCHEMA["properties"][kind]["properties"]) for kind in ("settings", "secrets"))
    assert settings | secrets | helm_chart.BY_THE_CHART == set(Settings.model_fields)
    assert [name for name in settings if is_secret(name)] == []


def test_the_schema_describes_every_value_and_has_no_other():
    jsonschema.validate(VALUES, SCHEMA)
    assert set(SCHEMA["properties"]) - {"global"} == set(VALUES)


def parts(schema, place="values"):
    yield place, schema
    for name, part in schema.get("properties", {}).items():
        yield from parts(part, f"{place}.{name}")


PARTS = list(parts(SCHEMA))


@pytest.mark.parametrize(("place", "schema"), PARTS, ids=[place for place, _ in PARTS])
def test_each_value_has_a_description_and_no_unknown_names(place, schema):
    assert schema.get("description") or place == "values"
    if schema.get("properties"):
        assert schema["additionalProperties"] is False
