# shellcheck shell=bash
# What the scripts of this folder share: the names of the images, and how they speak. To be sourced, from anywhere;
# it goes to the top of the repository.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# Where images come from. "local": .ci/images makes them, for machines that reach no registry. "registry": the
# official ones, those that the Dockerfile and docker-compose.yaml name.
: "${BALLAST_CI_IMAGES:=local}"
case $BALLAST_CI_IMAGES in
    local)
        export BUILD_IMAGE=ballast-test/rust:bookworm
        export RUN_IMAGE=ballast-test/debian:bookworm
        export POSTGRES_IMAGE=ballast-test/postgres:15
        # For the tests; 15 is the oldest PostgreSQL that is supported.
        export BALLAST_TEST_POSTGRES_IMAGE=$POSTGRES_IMAGE
        ;;
    registry)
        unset BUILD_IMAGE RUN_IMAGE POSTGRES_IMAGE
        export BALLAST_TEST_POSTGRES_IMAGE=postgres:15-bookworm
        ;;
    *)
        echo "BALLAST_CI_IMAGES is local or registry, not $BALLAST_CI_IMAGES" >&2
        exit 1
        ;;
esac

say() {
    printf -- '--- %s\n' "$*"
}

fail() {
    failure=$*
    printf 'error: %s\n' "$failure" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# apt_install COMMAND PACKAGE: installs PACKAGE if there is no COMMAND. Leaves alone what is installed.
apt_install() {
    [ -n "$(command -v "$1")" ] && return
    say "installing $2"
    as_root apt-get update --quiet=2
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet=2 --yes --no-upgrade --no-install-recommends "$2" >/dev/null
}

# Docker Compose, whichever is there: the plugin of docker, or the older command.
compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    else
        docker-compose "$@"
    fi
}
