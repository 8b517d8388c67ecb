# The server for production, without embedded PostgreSQL: give it DATABASE_URL. See docs/operations.md.
#
#   docker build -t switchyard .
#
# BASE is any Debian image with Node 24 and npm; git and tini are added if it lacks them.
ARG BASE=node:24-bookworm-slim

FROM ${BASE} AS build
WORKDIR /app
COPY package.json package-lock.json ./
# Everything, optional packages included: native parts of other packages are optional packages too.
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY prisma.config.ts ./
COPY prisma prisma
COPY tools tools
COPY src src
RUN node tools/ensure-generated.mjs
# The image brings its own Node and uses a PostgreSQL server of its operator's. Of Prisma's query compilers one is loaded.
RUN node tools/keep-production.mjs \
  && find node_modules/@prisma/client/runtime -name 'query_compiler_*' ! -name '*_fast_bg.postgresql.*mjs' -delete \
  && find node_modules -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -delete

FROM ${BASE}
# git fetches what is deployed; tini, as the first process, buries what deployed applications leave behind.
RUN if ! command -v git >/dev/null || ! command -v tini >/dev/null; then \
    apt-get update && apt-get install -y --no-install-recommends ca-certificates git tini && rm -rf /var/lib/apt/lists/*; \
  fi \
  && groupadd --gid 10001 switchyard \
  && useradd --uid 10001 --gid 10001 --home-dir /var/lib/switchyard --shell /usr/sbin/nologin switchyard \
  && install --directory --owner=switchyard --group=switchyard --mode=0700 /var/lib/switchyard
WORKDIR /app
COPY --from=build /app/node_modules node_modules
COPY package.json ./
COPY prisma/migrations prisma/migrations
COPY tools tools
COPY --from=build /app/src src
ENV NODE_ENV=production HOST=0.0.0.0 PORT=4000 SWITCHYARD_STATE_DIR=/var/lib/switchyard
USER switchyard
VOLUME /var/lib/switchyard
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["node", "tools/healthcheck.mjs"]
ENTRYPOINT ["tini", "--", "node", "src/main.ts"]
