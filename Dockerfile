# One image for operator and agent, so that both always have the same version and the same parser.
# Builds unchanged with docker, podman and buildah.

FROM debian:trixie-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      binutils ca-certificates python3 python3-pip python3-setuptools \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The locked libraries first: they change less often than the code.
COPY requirements/image.txt requirements/
RUN python3 -m pip install --no-cache-dir --require-hashes --no-deps \
      --target /opt/hauberk --requirement requirements/image.txt \
 # some extensions come with their symbols, which nobody reads
 && find /opt/hauberk -name '*.so' -exec strip --strip-unneeded {} +
COPY pyproject.toml LICENSE README.md ./
COPY crds crds
COPY profiles profiles
COPY operator operator
COPY daemonset daemonset
COPY cli cli
RUN python3 -m pip install --no-cache-dir --no-build-isolation --no-deps --target /opt/hauberk . \
 # the command line is for people's own machines
 && rm -rf /opt/hauberk/bin /opt/hauberk/hauberk/cli

FROM debian:trixie-slim AS root
# The parsers and the abstractions come with the image: the policy languages are then the same on every node.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends apparmor ca-certificates libseccomp2 python3 secilc \
 && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /usr/share/doc/* /usr/share/man/* \
 # profiles of host programs: only abstractions, tunables and abi are ever included
 && find /etc/apparmor.d -maxdepth 1 -type f -delete \
 # what installs packages has done its work; dpkg's records stay, for whoever looks for vulnerable ones
 && dpkg --purge --force-depends --force-remove-essential apt libapt-pkg7.0 sqv perl-base \
 && rm -rf /usr/lib/*/gconv /usr/lib/*/perl-base /var/cache/debconf /var/log/*

FROM scratch
COPY --from=root / /
COPY --from=build /opt/hauberk /opt/hauberk
# kopf names itself after its user, and a number has no name.
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/opt/hauberk PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 USER=hauberk
# The agent's pod runs as root with one capability; everything else runs as this.
USER 65532:65532
ENTRYPOINT ["/usr/bin/python3", "-m"]
CMD ["hauberk.operator.main"]
