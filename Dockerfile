FROM rust:1.95-slim-bookworm AS builder
WORKDIR /build
# The SQL macros read the committed .sqlx, so that a build needs no database.
ENV SQLX_OFFLINE=true
# Only what the build reads: a change to the documentation or the tests does not build again.
COPY Cargo.toml Cargo.lock askama.toml ./
COPY .sqlx .sqlx
COPY migrations migrations
COPY src src
# Named in Cargo.toml, and not built.
COPY benches benches
COPY tests/model tests/model
# The target folder is in a cache, which is no part of the image, so the program is copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --profile dist --locked --bin earmark && cp target/dist/earmark /earmark

# The Debian of the builder (12 is bookworm), as the program is linked against its C library.
# No ca-certificates: the roots that TLS trusts are compiled in.
FROM debian:12-slim
COPY --from=builder /earmark /usr/local/bin/earmark
# A number needs no entry in /etc/passwd. The program writes no files, so the user owns none.
USER 10001:10001
# On the loopback of a container nobody would reach it; what is published is decided outside.
ENV EARMARK_LISTEN=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
# The list form: through a shell the program would not get the signal.
ENTRYPOINT ["earmark"]
# The whole service in one process, the least that does something useful; docker-compose.yml names its own commands.
CMD ["serve"]
