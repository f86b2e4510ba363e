# docker build -t fasttrain .
# docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs/RUN:/model:ro" fasttrain serve /model --host 0.0.0.0
# With CUDA, which training wants:
# docker build -t fasttrain:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
# docker run --rm --gpus all --user "$(id -u):$(id -g)" --shm-size 2g -v "$PWD:/work" fasttrain:cuda train --data shards --amp
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ libjpeg62-turbo-dev && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN /source/tools/wheel.sh

FROM python:3.12-slim-bookworm
# PyTorch's index of CPU builds; PyPI's own torch is the one with CUDA's libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve,export
RUN --mount=from=build,source=/source/dist,target=/wheels \
    pip install --no-cache-dir --find-links /wheels --extra-index-url "$TORCH_INDEX" "fasttrain-vision[$EXTRAS]"
RUN useradd --uid 1000 --no-create-home fasttrain && install -d -o fasttrain /work /mlflow
# Settings and caches of a user who has no home in the image.
ENV HOME=/tmp
USER fasttrain
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["fasttrain"]
