# Pacifica UniqueID on port 8051, with its SQLite database in /data unless the environment names
# another one. docs/kubernetes.md and docs/configuration.md say what can be set.

# The base of both stages; append @sha256:... to pin it.
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS build
# Of a compiler any version will do; it does not reach the image.
# hadolint ignore=DL3008
RUN apt-get -qq update \
    && apt-get -qq install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
COPY requirements.txt requirements-build.txt ./
# uWSGI without what uwsgi.ini does not use, so that it needs no library which the base lacks.
RUN python3 -m venv /opt/uniqueid \
    && /opt/uniqueid/bin/pip install --require-hashes -r requirements-build.txt \
    && UWSGI_PROFILE_OVERRIDE='xml=false;yaml=false;ssl=false;pcre=false' \
       /opt/uniqueid/bin/pip install --no-build-isolation --require-hashes -r requirements.txt
COPY setup.py pyproject.toml README.md LICENSE config.cfg uwsgi.ini ./
COPY pacifica pacifica
COPY uniqueid uniqueid
RUN /opt/uniqueid/bin/pip install --no-build-isolation --no-deps --no-index . \
    && /opt/uniqueid/bin/pip uninstall -y --quiet pip setuptools \
    && /opt/uniqueid/bin/pacifica-uniqueid-cmd --version
# The database is the environment's to name: a URL in the file would go before the old variables.
COPY uwsgi.ini config.cfg /etc/uniqueid/
RUN sed -i 's/^url = /#&/' /etc/uniqueid/config.cfg

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
# Group 0 may write as well: OpenShift runs images as a user of its own choice in that group.
# No VOLUME: without a mount a read-only container must refuse SQLite, and not get a fresh, empty
# database with every start.
RUN install -d -m 0770 -o 10001 -g 0 /data
COPY --from=build /etc/uniqueid /etc/uniqueid
COPY --from=build /opt/uniqueid /opt/uniqueid
ENV PATH=/opt/uniqueid/bin:$PATH \
    UNIQUEID_CONFIG=/etc/uniqueid/config.cfg
# The default database is relative to here: /data/db.sqlite3.
WORKDIR /data
USER 10001:10001
EXPOSE 8051
# Asks /readyz, which takes no ID. -I: nothing is imported from /data.
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s \
    CMD ["/opt/uniqueid/bin/python3", "-I", "-m", "uniqueid.container", "--ready"]
ENTRYPOINT ["/opt/uniqueid/bin/python3", "-I", "-m", "uniqueid.container"]

# Last, since they change with every commit.
ARG VERSION=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="Pacifica UniqueID" \
      org.opencontainers.image.description="Ranges of IDs over HTTP, never the same ID twice" \
      org.opencontainers.image.url="https://github.com/pacifica/pacifica-uniqueid" \
      org.opencontainers.image.source="https://github.com/pacifica/pacifica-uniqueid" \
      org.opencontainers.image.documentation="https://github.com/pacifica/pacifica-uniqueid/tree/master/docs" \
      org.opencontainers.image.vendor="Pacifica" \
      org.opencontainers.image.licenses="LGPL-3.0-or-later" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
