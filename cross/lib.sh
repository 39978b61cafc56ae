# What the scripts of this folder share: they build one release binary each, for machines like the one that is named.
# Everything they make or fetch lies under target/cross (CROSS_DIR is another folder): a second run finds it.
#
#   target/cross/TRIPLE/           cargo's; TRIPLE/release/trunkline in it is what was built
#                      features    what that was built with
#                      runner      how this machine runs it, if not by itself
#   target/cross/tools/            a compiler, where there is none for the target; libraries of the target
#
# With --quick they build for a test instead, in a minute and not for use: TRIPLE/quick/trunkline, without `aec`.
#
# With rustup's target installed (`rustup target add TRIPLE`), that is taken. Else Debian's own compiler rustc-web, which is
# unpacked and not installed, because it conflicts with other Rust packages; with Rust's library built from its source for
# the target (-Zbuild-std).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cross=${CROSS_DIR:-$root/target/cross}
mkdir -p "$cross"
cross=$(realpath "$cross")
tools=$cross/tools
# One at a time: two would fetch over each other.
exec 8>"$cross/lock"
flock 8
suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

profile=release
if [ "${1:-}" = --quick ]; then profile=quick; shift; fi

updated=
apt_install() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    say "installing by apt-get: ${missing[*]}"
    local as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    [ -n "$updated" ] || $as_root apt-get update -qq
    updated=1
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# An apt of its own for another architecture: this machine's is not told of it, and keeps working where a mirror's index
# for that architecture does not.
foreign_apt() { # architecture, command, arguments...
    local architecture=$1 state=$tools/apt-$1 command=$2
    shift 2
    if [ ! -e "$state/config" ]; then
        local mirror
        mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
            awk -v suite="$suite" '$1 == suite && $2 ~ /^https?:/ { print $2; exit }')
        mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/etc"
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
            "${mirror:-http://deb.debian.org/debian}" "$suite" >"$state/sources.list"
        : >"$state/status"
        cat >"$state/config.new" <<CONFIG
APT::Architecture "$architecture";
APT::Architectures "$architecture";
APT::Sandbox::User "root";
Dir::State "$state";
Dir::State::Lists "$state/lists";
Dir::State::Status "$state/status";
Dir::Cache "$state/cache";
Dir::Etc::SourceList "$state/sources.list";
Dir::Etc::SourceParts "$state/etc";
CONFIG
        mv "$state/config.new" "$state/config"
        APT_CONFIG=$state/config apt-get update -qq
    fi
    APT_CONFIG=$state/config "$command" "$@"
}

# The libraries that the binary is linked with, and those that it takes to run it here: unpacked, not installed. libc's
# own development files are the cross compiler's, because those of the target name absolute paths.
sysroot() { # architecture, its name in paths
    local architecture=$1 tuple=$2 into=$tools/sysroot-$1
    sysroot=$into
    [ -e "$into/whole" ] && return
    local alsa=libasound2t64
    [ "$suite" = bookworm ] && alsa=libasound2
    local packages=(libc6 libgcc-s1 "$alsa" libasound2-dev libsystemd0 libsystemd-dev libcap2 libgcrypt20 libgpg-error0
        liblzma5 liblz4-1 libzstd1)
    say "fetching for $architecture, into $into: ${packages[*]}"
    rm -rf "$into" "$tools/dl-$architecture"
    mkdir -p "$into" "$tools/dl-$architecture"
    (cd "$tools/dl-$architecture" && foreign_apt "$architecture" apt-get download -qq "${packages[@]}")
    local package
    for package in "$tools/dl-$architecture"/*.deb; do dpkg -x "$package" "$into"; done
    # Where /lib is a link to /usr/lib, so it is here.
    if [ -d "$into/lib" ] && [ ! -L "$into/lib" ]; then cp -a "$into/lib/." "$into/usr/lib/"; rm -rf "$into/lib"; fi
    ln -sfn usr/lib "$into/lib"
    # Links to absolute places, as -dev packages of libraries in /lib have them.
    find "$into/usr/lib/$tuple" -lname '/*' | while read -r link; do ln -sfn "$(basename "$(readlink "$link")")" "$link"; done
    rm -rf "$tools/dl-$architecture"
    touch "$into/whole"
}

# Sets up the compiler for the target.
compiler() { # triple, its name in paths
    local triple=$1 tuple=$2
    if command -v rustup >/dev/null && rustup target list --installed 2>/dev/null | grep -qx "$triple"; then
        say "rustup's compiler is taken"
        return
    fi
    local into=$tools/rustc version
    if [ ! -e "$into/whole" ]; then
        apt_install apt dpkg
        [ -n "$updated" ] || apt-get update -qq
        # The library's package has the version in its name.
        version=$(apt-cache policy rustc-web | awk '/Candidate:/ { print $2 }')
        case $version in
            '' | '(none)') say "there is no compiler for $triple: run \`rustup target add $triple\`, or add Debian's security suite to the apt sources for rustc-web"; exit 1 ;;
        esac
        local std llvm
        std=$(apt-cache depends rustc-web="$version" | awk '/Depends: libstd-rust-web-[0-9]/ { print $2; exit }')
        [ -n "$std" ] || std=$(apt-cache depends libstd-rust-web-dev="$version" | awk '/Depends: libstd-rust-web-[0-9]/ { print $2; exit }')
        llvm=$(apt-cache depends "$std" | awk '/Depends: libllvm/ { print $2; exit }')
        [ -n "$llvm" ] || llvm=$(apt-cache depends rustc-web="$version" | awk '/Depends: libllvm/ { print $2; exit }')
        say "fetching Debian's compiler $version, into $into: rustc-web libstd-rust-web-dev $std $llvm rust-web-src"
        rm -rf "$into" "$tools/dl-rustc"
        mkdir -p "$into" "$tools/dl-rustc"
        (cd "$tools/dl-rustc" && apt-get -o APT::Sandbox::User=root download -qq rustc-web libstd-rust-web-dev "$std" "$llvm" rust-web-src)
        local package
        for package in "$tools"/dl-rustc/*.deb; do dpkg -x "$package" "$into"; done
        # Where cargo looks for the library's source.
        local source=("$into"/usr/src/rustc-*/library)
        mkdir -p "$into/usr/lib/rustlib/src/rust"
        [ -e "$into/usr/lib/rustlib/src/rust/library" ] || cp -r "${source[0]}" "$into/usr/lib/rustlib/src/rust/"
        cat >"$into/rustc" <<'RUSTC'
#!/bin/sh
usr=$(dirname "$(readlink -f "$0")")/usr
LD_LIBRARY_PATH=$usr/lib/x86_64-linux-gnu exec "$usr/bin/rustc" "$@"
RUSTC
        chmod +x "$into/rustc"
        chmod -R a+rX "$into"
        rm -rf "$tools/dl-rustc"
        touch "$into/whole"
    fi
    export RUSTC=$into/rustc
    local library=$into/usr/lib/rustlib/$triple/lib
    if [ ! -e "$library/whole" ]; then
        # From its source and put where the compiler looks: what a build script compiles for the target finds it, too.
        # Once for each target; both its code and what link-time optimisation reads.
        say "building Rust's library for $triple"
        local std=$tools/std-$triple name=${triple//-/_}
        mkdir -p "$std/src" "$library"
        printf '[package]\nname = "std-of"\nedition = "2024"\n[workspace]\n' >"$std/Cargo.toml"
        : >"$std/src/lib.rs"
        (
            cd "$std"
            declare -x "CARGO_TARGET_${name^^}_LINKER=$tuple-gcc"
            export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Cembed-bitcode=yes $(remaps "$std/target")"
            cargo build --quiet --release -Zbuild-std=std,panic_unwind,panic_abort --target "$triple" --target-dir "$std/target"
        )
        find "$std/target/$triple/release/deps" -name '*.rlib' ! -name 'libstd_of*' -exec cp {} "$library/" \;
        rm -rf "$std"
        touch "$library/whole"
    fi
    say "Debian's compiler is taken: $("$RUSTC" --version)"
}

# The paths of this machine, which panics would name. The last that fits is taken.
remaps() { # target folder of cargo
    printf -- '--remap-path-prefix=%s=%s ' "${CARGO_HOME:-$HOME/.cargo}" /cargo "$root" /trunkline \
        "$tools/rustc/usr/lib/rustlib/src/rust" /rustc "$1" /target
}

# The compiler that built it, its paths and the time of day are no part of a binary: two builds of a commit are equal.
reproducible() { # triple, its target folder
    local name=${1//-/_} folder=$2 home=${CARGO_HOME:-$HOME/.cargo}
    SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)
    RUSTFLAGS="$(remaps "$folder")${more_flags:-}"
    declare -gx "CFLAGS_$name=-ffile-prefix-map=$home=/cargo -ffile-prefix-map=$folder=/target"
    export SOURCE_DATE_EPOCH RUSTFLAGS
}

# For another processor than this one's: the cross compiler, the libraries, and qemu to run what was built.
foreign() { # triple, architecture, its name in paths, how qemu calls it
    local triple=$1 architecture=$2 tuple=$3 name=${1//-/_}
    local upper=${name^^}
    apt_install "gcc-$tuple" "libc6-dev-$architecture-cross" pkg-config qemu-user-static debian-archive-keyring git
    compiler "$triple" "$tuple"
    sysroot "$architecture" "$tuple"
    declare -gx "CARGO_TARGET_${upper}_LINKER=$tuple-gcc" "CC_$name=$tuple-gcc"
    declare -gx "PKG_CONFIG_SYSROOT_DIR_$name=$sysroot" "PKG_CONFIG_LIBDIR_$name=$sysroot/usr/lib/$tuple/pkgconfig"
    export PKG_CONFIG_ALLOW_CROSS=1
    # libsystemd's crate asks pkg-config by itself, or is told:
    declare -gx "SYSTEMD_LIB_DIR=$sysroot/usr/lib/$tuple"
    more_flags=" -Clink-arg=-L$sysroot/usr/lib/$tuple -Clink-arg=-Wl,-rpath-link,$sysroot/usr/lib/$tuple"
    mkdir -p "$cross/$triple"
    printf 'qemu-%s-static -L %s' "$4" "$sysroot" >"$cross/$triple/runner"
}

# Leaves the binary at $cross/TRIPLE/TRIPLE/PROFILE/trunkline, and what a release was built with in $cross/TRIPLE/features.
build() { # triple
    local triple=$1 folder=$cross/$1 features=default,aec
    reproducible "$triple" "$folder"
    cd "$root"
    [ "$profile" = release ] || features=default
    if ! links_libsystemd; then
        say "libsystemd cannot be linked for $triple: built without the feature systemd; the journal gets lines, not fields"
        features=${features/default/sound}
    fi
    local cargo=(cargo build --profile "$profile" --locked --target "$triple" --target-dir "$folder")
    case $features in default*) ;; *) cargo+=(--no-default-features) ;; esac
    "${cargo[@]}" --features "$features"
    [ "$profile" != release ] || printf '%s\n' "$features" >"$folder/features"
    say "built $folder/$triple/$profile/trunkline with $features"
}

# Whether a program that calls it links. What is built on this machine for itself has it by scripts/setup.
links_libsystemd() {
    [ -n "${sysroot:-}" ] || return 0
    local tuple
    tuple=$(basename "$SYSTEMD_LIB_DIR")
    printf 'int sd_notify(int, const char *);\nint main(void) { return sd_notify(0, ""); }\n' |
        "$tuple-gcc" -x c - -o /dev/null -L"$SYSTEMD_LIB_DIR" "-Wl,-rpath-link,$SYSTEMD_LIB_DIR" -lsystemd 2>/dev/null
}
