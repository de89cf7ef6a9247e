# The quick start in a container:
#   docker build -t semmae . && docker run --rm -v semmae:/semmae/work_dirs semmae
FROM python:3.11-slim-bookworm
# For opencv-python.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home user && install --directory --owner user /semmae
USER user
WORKDIR /semmae
RUN mkdir work_dirs
COPY --chown=user requirements/lock.txt requirements/
COPY --chown=user setup.py setup.cfg pyproject.toml README.md LICENSE ./
COPY --chown=user tools tools/
COPY --chown=user mm_configs mm_configs/
COPY --chown=user semmae semmae/
RUN bash -c 'set -e; source tools/setup.sh; setup'
CMD ["bash", "tools/quickstart.sh"]
