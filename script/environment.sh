# Where the environment of this checkout is, and with which Python it is made. Sourced by setup, demo and test.
#
# EVICAN_CELLPROFILER  5 (default): CellProfiler 5, Python 3.9 to 3.11, no Java
#                      4: CellProfiler 4.2.8.1, Python 3.9 or 3.8 and a JDK
#                      plate: evican_plate and Snakemake without CellProfiler, which it starts; Python 3.11
# EVICAN_PYTHON        the Python to use, instead of the first fitting one found
# shellcheck shell=bash

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
edition=${EVICAN_CELLPROFILER:-5}
kind=cellprofiler$edition
[ "$edition" != plate ] || kind=plate
# A link to the environment that script/setup made last: .venv/cellprofiler5 -> cellprofiler5-py3.11
environment=$checkout/.venv/$kind

# What the user's shell has set for another Python must not reach ours.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIREMENT
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

case $edition in
    5) python_versions='3.11 3.10 3.9' edition_name='CellProfiler 5' ;;
    4) python_versions='3.9 3.8' edition_name='CellProfiler 4.2.8.1' ;;
    plate) python_versions='3.11' edition_name='evican_plate' ;;
    *) fail "EVICAN_CELLPROFILER is '$edition'; it must be 5 (the default), 4 or plate" ;;
esac

python_fits() {  # python_fits COMMAND: sets python_version; whether it is one of $python_versions and can make environments
    python_version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || return 1
    case " $python_versions " in *" $python_version "*) ;; *) return 1 ;; esac
    if ! "$1" -c 'import ensurepip, venv' 2> /dev/null; then
        python_without_venv=$python_version
        return 1
    fi
}

find_python() {  # sets python (a command) and python_version; returns 1 where no Python fits
    local version candidate
    python_without_venv=
    if [ -n "${EVICAN_PYTHON:-}" ]; then
        python=$EVICAN_PYTHON
        python_fits "$python" || fail "EVICAN_PYTHON is '$python', which is not a Python of version" \
            "${python_versions// / or } with its venv module"
        return
    fi
    for candidate in python3 $(printf 'python%s ' $python_versions); do
        if command -v "$candidate" > /dev/null && python_fits "$candidate"; then
            python=$candidate
            return
        fi
    done
    for version in $python_versions; do
        for candidate in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python "$HOME/.pyenv/versions/$version".*/bin/python; do
            if [ -x "$candidate" ] && python_fits "$candidate"; then
                python=$candidate
                return
            fi
        done
    done
    return 1
}

find_java() {  # find_java PROGRAM (javac or java): exports the JAVA_HOME that holds it, or returns 1
    local candidate
    for candidate in "${JAVA_HOME:-}" "$(real_home_of "$1")" "$(/usr/libexec/java_home 2> /dev/null || true)" /usr/lib/jvm/*; do
        if [ -n "$candidate" ] && [ -x "$candidate/bin/$1" ]; then
            export JAVA_HOME=$candidate
            return
        fi
    done
    return 1
}

real_home_of() {  # real_home_of PROGRAM: the folder above the bin/ that PROGRAM, links resolved, stands in
    local program
    program=$(command -v "$1") || return 0
    while [ -L "$program" ]; do
        program=$(cd "$(dirname "$program")" && cd "$(dirname "$(readlink "$program")")" && pwd -P)/$(basename "$(readlink "$program")")
    done
    dirname "$(dirname "$program")"
}

require_java() {  # CellProfiler 4.2.8 reads images and keeps measurements through a Java virtual machine
    [ "$edition" = 4 ] || return 0
    find_java "$1" || fail "$edition_name needs a Java development kit and no $1 was found:" \
        "install one (Debian, Ubuntu: apt-get install openjdk-17-jdk-headless; macOS, Windows: adoptium.net; conda:" \
        "conda install openjdk=17) or set JAVA_HOME, then run this again"
}
