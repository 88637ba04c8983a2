# syntax=docker/dockerfile:1
# Retake on a workstation with an NVIDIA GPU. How to build and run it: docs/deployment.md
#
# The base has no CUDA toolkit: torch's packages bring their own libraries, the driver comes from the machine by the
# NVIDIA container toolkit. Compilers stay in the image: triton and torch call them while a model runs.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${BASE} AS build
# hadolint ignore=DL3008 # Ubuntu keeps no old versions to pin
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/retake
WORKDIR /src
# what is asked for comes before the sources: with another line of ours, gigabytes are not installed again
COPY pyproject.toml .ci/constraints-gpu.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -c "import tomllib; asked = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = asked['optional-dependencies']; \
print(*asked['dependencies'], *extras['gpu'], *extras['constrained'], sep='\n')" > asked.txt \
 && /opt/retake/bin/pip install --constraint constraints-gpu.txt --requirement asked.txt \
    nvidia-cuda-runtime-cu12
COPY README.md LICENSE ./
COPY engine engine
COPY kernels kernels
COPY export export
COPY bench bench
RUN --mount=type=cache,target=/root/.cache/pip /opt/retake/bin/pip install --no-deps .

FROM ${BASE} AS run
# hadolint ignore=DL3008 # Ubuntu keeps no old versions to pin
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ gcc libc6-dev python3 python3-dev \
 && rm -rf /var/lib/apt/lists/*
# the base's own user has the number that most users have on their machine
ARG UID=1000
RUN if getent passwd ubuntu; then userdel --remove ubuntu; fi \
 && useradd --create-home --user-group --uid "${UID}" retake \
 && install --directory --owner=retake --group=retake /cache /data /models /runs
COPY --from=build /opt/retake /opt/retake
# LD_LIBRARY_PATH: xformers is built for CUDA 12, whose runtime lies beside torch's of CUDA 13 under another name
ENV PATH=/opt/retake/bin:${PATH} \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    TRITON_CACHE_DIR=/cache/triton \
    LD_LIBRARY_PATH=/opt/retake/lib/python3.12/site-packages/nvidia/cuda_runtime/lib${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}} \
    PYTHONUNBUFFERED=1
USER ${UID}
WORKDIR /runs
ENTRYPOINT ["retake"]
CMD ["doctor"]
