# What pint is to see in alerts/: `pint --offline lint --min-severity=info --fail-on=info alerts/agenthost.rules.yml`

# Whose host and whose sidecar it is must not be lost on the way.
rule {
  aggregate ".+" {
    severity = "bug"
    keep     = ["job", "instance"]
  }
}

# It is to fire always.
rule {
  match {
    kind = "alerting"
    name = "Watchdog"
  }
  disable = ["alerts/comparison"]
}
