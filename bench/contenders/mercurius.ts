import fastify from 'fastify';
import mercurius from 'mercurius';
import { contextOf, schema } from './shared/schema.ts';
import { port, ready } from './shared/serve.ts';

// Fastify + Mercurius, operations compiled by graphql-jit from the first time on.
const app = fastify();
await app.register(mercurius, { schema, jit: 1, context: ({ headers }) => contextOf(headers.authorization) });
await app.listen({ port, host: '127.0.0.1' });
ready();
