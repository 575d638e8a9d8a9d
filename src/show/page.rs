//! `GET /`: a plain landing page.

use crate::snapshot::Snapshot;

/// The page; it changes with the version only.
pub fn render(snapshot: &Snapshot) -> String {
    let version = snapshot.sidecar.version;
    format!(
        r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>agenthost-exporter</title></head>
<body>
<h1>agenthost-exporter</h1>
<p>Facts and verdicts about one AI-agent host, seen from outside. Version {version}.</p>
<ul>
<li><a href="/status">/status</a>: everything as JSON; <a href="/status?section=health">the verdicts alone</a></li>
<li><a href="/metrics">/metrics</a>: the same for Prometheus</li>
<li><a href="/readyz">/readyz</a>: whether the host can do its work</li>
<li><a href="/livez">/livez</a>: whether this sidecar works</li>
</ul>
</body>
</html>
"#
    )
}
