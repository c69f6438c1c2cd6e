"""Grafana dashboards as code: what each panel asks is data that tests run against a real Prometheus."""
