# One image for every role of the product. The role is the container's first argument:
#   docker build -t volumedriver-csi .
#   docker run --rm volumedriver-csi --help
#
# BASE_IMAGE is a Debian 12 or 13, or a mirror of one. Where the registries are reached through a proxy or with
# certificates of your own, hand them in as build secrets; nothing of them stays in the image:
#   docker build --secret id=npmrc,src=$HOME/.npmrc --secret id=apt,src=/etc/apt/apt.conf.d/80proxy .
ARG BASE_IMAGE=debian:13-slim

# Debian's Node installs and compiles only: what runs is the Node 24 that package-lock.json pins.
FROM ${BASE_IMAGE} AS npm
RUN --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/99build \
  apt-get update -q \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends nodejs npm
WORKDIR /opt/volumedriver-csi
COPY package.json package-lock.json .npmrc ./

# Production dependencies, without what only compilers and debuggers read. Licences stay.
FROM npm AS production
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc \
  --mount=type=cache,target=/root/.npm \
  npm ci --omit=dev --ignore-scripts --no-fund --no-audit \
  && rm -rf node_modules/node-linux-*/include node_modules/node-linux-*/share \
  && find node_modules -type f \( -name '*.d.ts' -o -name '*.d.[cm]ts' -o -name '*.map' \) -delete

FROM npm AS build
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc \
  --mount=type=cache,target=/root/.npm \
  npm ci --omit=optional --ignore-scripts --no-fund --no-audit
COPY tsconfig.json tsconfig.build.json ./
COPY src src
RUN npm run build

# These Debian packages depend on far more than their few programs that are used here (a graphics stack, Python, ICU):
# only the programs are taken out of them, with their licences, and with the records by which scanners know packages.
# The libraries that they link with are packages of the last stage. Which of the first two has the program depends on
# the release.
FROM ${BASE_IMAGE} AS programs
WORKDIR /packages
RUN --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/99build \
  set -eu; \
  apt-get update -q; \
  for package in qemu-system-common qemu-utils xfsprogs; do \
    apt-get download -q "$package"; \
    dpkg-deb --raw-extract "$package"_*.deb "$package"; \
    found=$(find "$package" -regex '.*/\(qemu-storage-daemon\|mkfs.xfs\|xfs_growfs\|xfs_repair\)' -type f -perm -1); \
    [ -n "$found" ] || continue; \
    install -D -t /programs/usr/local/bin $found; \
    install -D -m 644 -t "/programs/usr/share/doc/$package" "$package/usr/share/doc/$package/copyright"; \
    install -D -m 644 "$package/DEBIAN/control" "/programs/var/lib/dpkg/status.d/$package"; \
  done

FROM ${BASE_IMAGE}
# Debian 13 renamed some libraries: satisfy takes the first alternative that there is.
RUN --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/99build \
  export DEBIAN_FRONTEND=noninteractive \
  && apt-get update -q \
  && apt-get install -y -q --no-install-recommends e2fsprogs kmod mount util-linux \
  && apt-get satisfy -y -q --no-install-recommends \
    'libaio1t64 | libaio1, libfuse3-4 | libfuse3-3, libglib2.0-0t64 | libglib2.0-0, libgmp10' \
    'libgnutls30t64 | libgnutls30, libhogweed6t64 | libhogweed6, libnettle8t64 | libnettle8' \
    'libnuma1, libselinux1, liburing2, libzstd1, zlib1g' \
    'libblkid1, libedit2, libinih1, liburcu8t64 | liburcu8, libuuid1' \
  && apt-get clean \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old \
    /var/log/*.log /var/log/apt
COPY --from=programs /programs /
WORKDIR /opt/volumedriver-csi
COPY --from=production /opt/volumedriver-csi/node_modules node_modules
COPY LICENSE package.json ./
COPY bin bin
COPY --from=build /opt/volumedriver-csi/dist dist
# Everything that is run must start: a missing library or package shows here and not on a node.
RUN ln -s /opt/volumedriver-csi/bin/volumedriver-csi /opt/volumedriver-csi/bin/vdctl /usr/local/bin/ \
  && volumedriver-csi --help >/dev/null && vdctl --help >/dev/null \
  && qemu-storage-daemon --version && mkfs.xfs -V && xfs_growfs -V && xfs_repair -V && mkfs.ext4 -V \
  && blkid --version && losetup --version && modprobe --version
WORKDIR /

# The data plane and the node role attach and mount devices, so they need root, the image's default. The
# controller needs no rights and runs as any user: --user 65532.
ENTRYPOINT ["volumedriver-csi"]
CMD ["--help"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="volumedriver-csi" \
  org.opencontainers.image.description="A log-structured volumedriver behind a Kubernetes CSI driver" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
