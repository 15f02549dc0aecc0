# Builds ballast and keeps nothing but the binary.
#
# The build needs Rust, cargo and a C compiler; the run image a glibc at least as new as that of the build image.
ARG BUILD_IMAGE=rust:1-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
# First the dependencies, for an empty crate: this layer lasts until Cargo.toml or Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' | tee build.rs > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r build.rs src
COPY build.rs ./
COPY proto proto
COPY migrations migrations
COPY src src
# COPY keeps the times of the files: without touch, cargo may hold the empty crate for newer than the sources.
RUN touch build.rs src/lib.rs src/main.rs \
    && cargo build --release --locked

FROM ${RUN_IMAGE}
COPY --from=build /build/target/release/ballast /usr/local/bin/ballast
# There is no PostgreSQL in here: BALLAST_DATABASE_URL names one.
ENV BALLAST_LISTEN=0.0.0.0:50051 \
    BALLAST_REQUIRE_DATABASE=true
EXPOSE 50051
# A number, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 65532:65532
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["ballast", "health"]
ENTRYPOINT ["ballast"]
