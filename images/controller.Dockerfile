# The controller and the command line, without torch: tandem controller, tandem submit.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
ARG UV_VERSION=0.13.9
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN --mount=type=cache,target=/var/cache/uv --mount=type=bind,source=images/uv,target=/run/uv \
    --mount=type=secret,id=pip.conf --mount=type=secret,id=uv.toml --mount=type=secret,id=ca.crt \
    /run/uv build --quiet --wheel --out-dir /wheel

FROM ${PYTHON_IMAGE} AS controller
ARG UV_VERSION=0.13.9
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends tini >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log
ENV VIRTUAL_ENV=/opt/tandem PATH=/opt/tandem/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY locks/base.txt /opt/locks/
RUN --mount=type=cache,target=/var/cache/uv --mount=type=bind,source=images/uv,target=/run/uv \
    --mount=type=secret,id=pip.conf --mount=type=secret,id=uv.toml --mount=type=secret,id=ca.crt \
    python3 -m venv --without-pip /opt/tandem \
    && /run/uv pip install --quiet --require-hashes --requirement /opt/locks/base.txt
COPY --from=wheel /wheel /opt/wheel
RUN --mount=type=cache,target=/var/cache/uv --mount=type=bind,source=images/uv,target=/run/uv \
    --mount=type=secret,id=pip.conf --mount=type=secret,id=uv.toml --mount=type=secret,id=ca.crt \
    /run/uv pip install --quiet --no-deps --offline /opt/wheel/*.whl
ENV HOME=/tmp
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["tini", "--", "tandem"]
CMD ["controller"]
ARG REVISION=unknown
ARG VERSION=unknown
LABEL org.opencontainers.image.title="tandem-controller" \
    org.opencontainers.image.description="Brings Runs to their end on Kubernetes: tandem controller" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
