# docker build -t fasttrain .
# docker run --rm --gpus all --user "$(id -u):$(id -g)" --shm-size 2g -v "$PWD:/work" fasttrain train --data shards --amp
FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ libjpeg62-turbo-dev && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN /source/tools/wheel.sh

FROM python:3.12-slim-bookworm
RUN --mount=from=build,source=/source/dist,target=/wheels \
    pip install --no-cache-dir --find-links /wheels fasttrain-vision
# Settings and caches of a user who has no home in the image.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["fasttrain"]
