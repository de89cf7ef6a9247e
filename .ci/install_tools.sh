#!/usr/bin/env bash
# A browser, LaTeX, a C++ compiler and Slurm, which some tests need. Exit status 1 if one is still missing.
set -uo pipefail
missing() {
  local packages=()
  command -v chromium > /dev/null || packages+=(chromium)
  command -v pdflatex > /dev/null || packages+=(texlive-latex-base texlive-latex-recommended texlive-latex-extra)
  command -v pdftotext > /dev/null || packages+=(poppler-utils)
  command -v g++ > /dev/null || packages+=(g++)
  command -v slurmd > /dev/null || packages+=(slurm-wlm)
  command -v munged > /dev/null || packages+=(munge)
  echo "${packages[@]}"
}
packages="$(missing)"
if [ -n "$packages" ]; then
  echo "== Installing $packages"
  { timeout 60 apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive timeout 240 apt-get install -y -qq --no-install-recommends $packages
  } > /dev/null || true
fi
packages="$(missing)"
[ -z "$packages" ] || { echo "not installed: $packages" >&2; exit 1; }
timeout 60 chromium --headless=new --no-sandbox --disable-gpu --dump-dom about:blank > /dev/null 2>&1 ||
  { echo "chromium does not start here" >&2; exit 1; }
