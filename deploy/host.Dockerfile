# The recipe for the host's own image: its health is the sidecar's verdict, which fails for what lasts only.
#   docker build -f deploy/host.Dockerfile --build-arg HOST=my/agent-host -t my/agent-host:watched .
# The sidecar runs beside it, in its network (README).
ARG HOST
ARG EXPORTER=agenthost-exporter
FROM ${EXPORTER} AS exporter
FROM ${HOST}
COPY --from=exporter /agenthost-exporter /agenthost-exporter
# A sidecar that cannot be reached says nothing of the host.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=1 \
    CMD ["/agenthost-exporter", "healthcheck", "--readyz", "--unreachable=ok", "--url=http://127.0.0.1:10484"]
