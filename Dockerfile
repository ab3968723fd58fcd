# chatkeep in an image of its own: the static binary, its configuration, and nothing else.
#
#   docker build -t chatkeep .                                   both features; --build-arg FEATURES=--no-default-features: embedded
#   docker run -d -e CHATKEEP_TOKEN="$(openssl rand -hex 32)" -p 127.0.0.1:8000:8000 -v chatkeep:/var/lib/chatkeep chatkeep
#
# docs/operations.md, "Container", says what it expects; compose.yaml runs it with MongoDB.

FROM rust:1-slim-bookworm AS build
WORKDIR /build
COPY . .
ARG FEATURES=
# What --version and the log name, since git is not here.
ARG CHATKEEP_COMMIT=
# Static, with glibc: the image has no library. scripts/package has the same flags, and their reasons.
RUN host="$(rustc -vV | sed -n 's/^host: //p')" && \
    RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' cargo build --release --locked --target "$host" $FEATURES && \
    install -D -m 755 "target/$host/release/chatkeep" /out/chatkeep && \
    scripts/licences $FEATURES >/out/third-party.txt && \
    mkdir /out/state /out/state/chatkeep

FROM scratch
COPY --from=build /out/chatkeep /usr/bin/chatkeep
COPY packaging/container/config.yaml /etc/chatkeep/config.yaml
# /etc/hosts before DNS, as elsewhere; without this file glibc asks DNS first.
COPY packaging/container/nsswitch.conf /etc/nsswitch.conf
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/chatkeep/
COPY --from=build /out/third-party.txt /usr/share/doc/chatkeep/third-party.txt
# A new volume gets this folder's owner. A folder of the host's that is mounted here must belong to it.
COPY --from=build --chown=65532:65532 /out/state /var/lib/
USER 65532:65532
WORKDIR /var/lib/chatkeep
VOLUME /var/lib/chatkeep
EXPOSE 8000
STOPSIGNAL SIGTERM
# Over the local socket, which asks for no token.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["/usr/bin/chatkeep", "status", "--config", "/etc/chatkeep/config.yaml"]
ENTRYPOINT ["/usr/bin/chatkeep"]
CMD ["serve", "--config", "/etc/chatkeep/config.yaml"]
