import { fileURLToPath } from 'node:url';
import { defineConfig } from 'prisma/config';

// Prisma's native schema engine is a download that a network with only the npm registry cannot reach: use the
// WebAssembly build of the same engine, which is an ordinary npm package.
process.env['PRISMA_SCHEMA_ENGINE_BINARY'] ??= fileURLToPath(new URL('tools/schema-engine.mjs', import.meta.url));

export default defineConfig({
  schema: 'prisma/schema',
  migrations: { path: 'prisma/migrations' },
  datasource: {
    url: process.env['DATABASE_DIRECT_URL'] ?? process.env['DATABASE_URL'] ?? 'postgresql://unset@127.0.0.1:1/unset',
  },
});
