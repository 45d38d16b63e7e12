# shellcheck shell=bash
# Sourced by the other scripts: find a Python, make a virtual environment, and install if a requirement has changed.

PYTHONS=(python3 python3.13 python3.12 python3.11 python3.10)
if [[ -n ${PYTHON:-} ]]; then
  PYTHONS=("$PYTHON")
fi

die() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit 1
}

# Each candidate is run: a launcher on PATH may point to a version that is not installed.
find_python() {
  local name bare=""
  for name in "${PYTHONS[@]}"; do
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 || continue
    if "$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      printf '%s\n' "$name"
      return
    fi
    bare=${bare:-$name}
  done
  if [[ -n $bare ]]; then
    die "$bare has no venv module; install it (Debian, Ubuntu: apt install python3-venv) or set PYTHON=/path/to/python"
  fi
  die "needs Python 3.10 or newer, tried: ${PYTHONS[*]}; install one or set PYTHON=/path/to/python"
}

# located NAME: print a path of this Python that runs; pyenv has versions that are not on PATH.
located() {
  local path
  for path in "$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/${1#python}".*/bin/"$1"; do
    if "$path" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      printf '%s\n' "$path"
      return
    fi
  done
}

# make_venv DIR: make an environment in DIR, unless its Python still runs.
make_venv() {
  local python
  if ! "$1/bin/python" -c '' >/dev/null 2>&1; then
    python=$(find_python)
    "$python" -m venv --clear "$1" || die "$python could not make a virtual environment in $1"
  fi
  "$1/bin/python" -c 'import pip' >/dev/null 2>&1 || "$1/bin/python" -m ensurepip >/dev/null
}

# pip_install VENV ARGUMENTS...: print errors only.
pip_install() {
  local venv=$1
  shift
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"
}

# It covers the directory too: an editable installation contains the path of the checkout.
fingerprint() {
  { pwd && cat "$@"; } | cksum
}

# unchanged STAMP FILES...: succeed if FILES are unchanged since `fingerprint FILES... >STAMP`.
unchanged() {
  local stamp=$1
  shift
  [[ -f $stamp && $(<"$stamp") == "$(fingerprint "$@")" ]]
}

# package_sources: print the files that the package is built from.
package_sources() {
  find setup.py MANIFEST.in pyproject.toml README.md prunecli -type f ! -name '*.pyc' ! -name '*.so' | sort
}

# build_dist: build the source distribution, and from it the wheel with compiled kernels, into .venv/dist, if a source
# has changed.
build_dist() {
  local sources
  make_venv .venv/build
  mapfile -t sources < <(package_sources)
  unchanged .venv/.built "${sources[@]}" && return
  pip_install .venv/build 'build>=1.2'
  rm -rf .venv/dist
  PRUNECLI_BUILD_NATIVE=1 .venv/build/bin/python -m build --outdir .venv/dist . >.venv/build.log 2>&1 ||
    die "the build failed, see .venv/build.log"
  fingerprint "${sources[@]}" >.venv/.built
}

# install_groups GROUP...: the project, editable, and dependency groups of pyproject.toml, into .venv. The kernels are
# compiled if a source has changed, also after a `git pull`.
install_groups() {
  local group stamp files=(pyproject.toml .ci/constraints.txt)
  make_venv .venv
  for group in "$@"; do
    stamp=.venv/.installed-$group
    if ! unchanged "$stamp" "${files[@]}"; then
      pip_install .venv 'pip>=25.1' 'setuptools>=77' # the first with --group; setup.py needs the other
      PRUNECLI_BUILD_NATIVE=0 pip_install .venv --constraint .ci/constraints.txt --editable . --group "$group"
      fingerprint "${files[@]}" >"$stamp"
    fi
  done
  .venv/bin/python setup.py -q build_ext --inplace
}
