// How the page tells what it can and can't show. PURE.

// State of the connection -> [how grave it is, what stands in the corner].
const SAID = {
  connecting: ["warn", "Connecting"],
  connected: ["good", "Live"],
  lost: ["warn", "Reconnecting"],
  silent: ["bad", "No live view"],
  starting: ["warn", "Starting"],
  unreachable: ["bad", "Unreachable"],
  unauthorized: ["off", "Key needed"],
  forbidden: ["off", "Operators only"],
  missing: ["bad", "Not installed"],
};

export function saidOf(status) {
  return SAID[status];
}

// What stands above figures that are old.
const LAST_KNOWN = "What you see is the last that was known; the page reconnects by itself.";
const BANNERS = {
  lost: `The live connection is lost. ${LAST_KNOWN}`,
  silent: `The live connection is lost: the service answers, its pusher does not. ${LAST_KNOWN}`,
  starting: `The live connection is lost: the service is starting or restarting. ${LAST_KNOWN}`,
  unreachable: `The live connection is lost: the service can't be reached. ${LAST_KNOWN}`,
  unauthorized: "The service no longer accepts the key. What you see is the last that was known.",
  forbidden: "This key may no longer see the overview. What you see is the last that was known.",
};

export function bannerOf(status) {
  return BANNERS[status] ?? "";
}

// What stands in place of figures where there are none; with a button where another key would help.
export function noticeOf(status, hasKey) {
  switch (status) {
    case "unauthorized":
      return { title: "The live view needs a key", said: "This service asks for an API key. Nothing is shown without one.", button: "Enter a key" };
    case "forbidden":
      return hasKey
        ? {
            title: "Not visible with this key",
            said: "This key may rank documents and follow its own requests. The overview of all requests and workers is for operators’ keys.",
            button: "Use another key",
          }
        : { title: "Not visible without a key", said: "The overview of all requests and workers is for operators’ keys. The playground is open.", button: "Enter a key" };
    case "missing":
      return {
        title: "The live view is not installed",
        said: "Its packages are missing. Run scripts/serve once where npm, or Python’s package index, can be reached. The playground works.",
      };
    case "silent":
      return {
        title: "The live view is not running",
        said: "The service answers, but its pusher, the process that brings figures here, does not. Ranking is not affected, and the playground works. This page tries again every second.",
      };
    case "starting":
      return { title: "The service is starting", said: "nginx answers, the programs behind it do not yet. This page tries again every second." };
    case "unreachable":
      return { title: "The service can’t be reached", said: "Nothing answers at this address. This page tries again every second." };
    default:
      return { title: "Connecting", said: "Waiting for the first figures." };
  }
}
