#!/bin/sh
# Sets up a machine for Fluid: system packages, then a virtual environment from the hash-locked requirements.
#
#   .bootstrap.sh CACHE VENV LOCK [the words given to ./fluid]
#
# Rules: it says what it installs and why, and asks; it starts no service and edits nothing of the system's; the
# environment exists whole or not at all. Exit 2: consent is missing. Exit 6: something failed, the log is named.
set -eu

cache=$1 venv=$2 lock=$3
shift 3
yes=${FLUID_YES:-${CI:-}}
arm64=''
for word; do
    case $word in
    --yes) yes=1 ;;
    --arm64) arm64=1 ;;
    esac
done
command=${1:-}

missing='' python=''
log=$cache/setup.log
newest_lines=5

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

# --- what is missing, and what it is for ---------------------------------------------------------------

# need PACKAGE REASON TEST…: list the package unless the test holds.
need() {
    package=$1 reason=$2
    shift 2
    "$@" >/dev/null 2>&1 || missing="$missing$package|$reason
"
}

find_python() {
    # The system's first: every user can run it. Another one, in PATH, may lie in somebody's private home.
    for candidate in /usr/bin/python3 "$(command -v python3 || true)"; do
        [ -n "$candidate" ] || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        python=$candidate
        return
    done
    if have python3; then
        say "Fluid needs Python 3.11 or newer; $(python3 --version 2>&1) is what this machine offers."
        say "Install a newer one, and put it first in PATH."
        exit 2
    fi
    python=/usr/bin/python3
}

have_firmware() { test -e /usr/share/AAVMF/AAVMF_CODE.fd; }

python_header() {
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}

list_missing() {
    case $(uname -m) in
    aarch64)
        need qemu-system-arm "runs the virtual machines" have qemu-system-aarch64
        need qemu-efi-aarch64 "starts those with a boot loader of their own" have_firmware ;;
    *) need qemu-system-x86 "runs the virtual machines" have qemu-system-x86_64 ;;
    esac
    need qemu-utils "makes their disks" have qemu-img
    need libvirt-daemon-system "manages the virtual machines" have libvirtd
    # Without it libvirtd 9.0 dies whenever it starts while one of our networks is up; it is never run.
    need dnsmasq-base "lets libvirt find its networks again after a restart" have dnsmasq
    need libvirt-clients "lets you look at them (virsh)" have virsh
    need mmdebstrap "builds the guest image from your package sources" have mmdebstrap
    need e2fsprogs "makes the guest's file system" have mkfs.ext4
    need lz4 "unpacks the guest's kernel, on Debian 12" have lz4
    need zstd "unpacks the guest's kernel, on newer ones" have zstd
    need iptables "lets libvirt close the sandboxes' networks" have iptables
    need iproute2 "tells the host's networks" have ip
    need openssh-client "makes keys" have ssh-keygen
    need tmux "holds the agents' terminals" have tmux
    need util-linux "runs helpers with fewer rights (setpriv, unshare)" have setpriv
    need libvirt-dev "headers of libvirt, for its Python binding" test -e /usr/include/libvirt/libvirt.h
    need pkg-config "finds those headers" have pkg-config
    need gcc "compiles the binding" have gcc
    need libc6-dev "compiles the binding" test -e /usr/include/stdlib.h
    need python3-dev "headers of Python, for the same" python_header
    need python3-venv "makes the virtual environment" "$python" -c 'import venv, ensurepip'
    if [ "$command" = test ]; then
        need openssh-server "plays machines in the tests; its service stays off" have sshd
        need screen "holds the console in one of them" have screen
    fi
    if [ "$command" = bench ]; then
        need fuse2fs "mounts a disk without root's driver, which we are compared with" have fuse2fs
    fi
    if [ "$command$arm64" = test1 ] && [ "$(uname -m)" != aarch64 ]; then
        need qemu-system-arm "emulates the arm64 guest" have qemu-system-aarch64
        need qemu-efi-aarch64 "is that guest's firmware" have_firmware
        need qemu-user-static "runs its packages' scripts while its image is built" have qemu-aarch64-static
    fi
}

# --- doing it --------------------------------------------------------------------------------------------

# step WORDS COMMAND…: run with its output in the log; one line, with the time; on failure the log's last lines.
step() {
    words=$1 began=$(date +%s)
    shift
    printf '$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null &
    work=$!
    trap 'kill "$work" 2>/dev/null || true; exit 130' INT TERM HUP
    if [ -t 2 ]; then
        while kill -0 "$work" 2>/dev/null; do
            printf '\r  %s … %d s ' "$words" $(($(date +%s) - began)) >&2
            sleep 0.5
        done
        printf '\r' >&2
    fi
    status=0
    wait "$work" || status=$?
    trap - INT TERM HUP
    if [ "$status" != 0 ]; then
        say "  $words: failed after $(($(date +%s) - began)) s                    "
        tail -n "$newest_lines" "$log" | sed 's/^/    /' >&2
        say "The whole log: $log"
        exit 6
    fi
    say "  $words: $(($(date +%s) - began)) s                    "
}

# Offline systemctl: a package's first start of its service, and any restart of another's, are left to the admin.
apt() {
    set -- env SYSTEMD_OFFLINE=1 NEEDRESTART_SUSPEND=1 DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
        apt-get -q -o Dpkg::Use-Pty=0 "$@"
    [ "$(id -u)" = 0 ] || set -- sudo -- "$@"
    "$@"
}

# Only where we installed it: nobody asked for an SSH server that starts at boot.
leave_off() {
    have systemctl || return 0
    set -- env SYSTEMD_OFFLINE=1 systemctl disable ssh.service ssh.socket
    [ "$(id -u)" = 0 ] || set -- sudo -- "$@"
    "$@" || true
}

# One source of many that does not answer is no reason to stop: what then cannot be found, the next step names.
refresh() { apt update || true; }

install_packages() {
    packages=$(printf '%s' "$missing" | cut -d'|' -f1 | tr '\n' ' ')
    packages=${packages% }
    line="apt-get install --no-install-recommends $packages"
    [ "$(id -u)" = 0 ] || line="sudo $line"
    say "Fluid needs these system packages:"
    printf '%s' "$missing" | while IFS='|' read -r package reason; do
        printf '  %-24s %s\n' "$package" "$reason" >&2
    done
    if ! have apt-get; then
        say "There is no apt-get here: install them in this system's own way, and start again."
        exit 2
    fi
    if [ -z "$yes" ]; then
        if [ ! -t 0 ]; then
            say "Nothing was changed. Run:  $line"
            say "or give --yes."
            exit 2
        fi
        printf 'Install them with apt? [y/N] ' >&2
        read -r answer || answer=''
        case $answer in
        y | Y | yes) ;;
        *) say "Nothing was changed. Run:  $line"; exit 2 ;;
        esac
    fi
    # A password is asked for here, where it can be answered, and not in the background.
    if [ "$(id -u)" != 0 ] && ! { have sudo && sudo -v; }; then
        say "Nothing was changed. As root, run:  ${line#sudo }"
        exit 2
    fi
    step "reading package lists" refresh
    # shellcheck disable=SC2086
    step "installing packages" apt install -y --no-install-recommends $packages
    case $packages in *openssh-server*) step "leaving its SSH service off" leave_off ;; esac
}

# The build tool is pinned as everything else is: it goes in first, and pip fetches no other for the sdist.
build_tool() { awk '/^setuptools==/ { on = 1 } on { print } on && !/\\$/ { exit }' "$lock"; }

make_environment() {
    umask 022
    exec 9>"$cache/.setup.lock"
    flock 9
    [ ! -x "$venv/bin/python" ] || return 0
    # Left by a set-up that was killed: no link names it.
    find "$cache" -maxdepth 1 -name ".${venv##*/}-*" -exec rm -rf {} +
    python=$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    home=$cache/.${venv##*/}-$$
    pip="$home/bin/python -m pip --disable-pip-version-check --no-input install --require-hashes"
    step "making a virtual environment" "$python" -m venv "$home"
    build_tool >"$home/build.lock"
    # shellcheck disable=SC2086
    step "installing the build tool" $pip -r "$home/build.lock"
    # shellcheck disable=SC2086
    step "installing Python packages" $pip --no-build-isolation -r "$lock"
    ln -sfn "${home##*/}" "$venv.new"
    mv -T "$venv.new" "$venv"
}

find_python
list_missing
mkdir -p "$cache"
: >"$log"
[ -z "$missing" ] || install_packages
make_environment
