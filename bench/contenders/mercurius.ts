import fastify from 'fastify';
import mercurius from 'mercurius';
import { listenForEvents } from './shared/feed.ts';
import { contextOf, schema } from './shared/schema.ts';
import { port, ready } from './shared/serve.ts';

// Fastify + Mercurius, operations compiled by graphql-jit from the first time on.
const app = fastify();
await app.register(mercurius, {
  schema,
  jit: 1,
  context: ({ headers }) => contextOf(headers.authorization),
  subscription: {
    onConnect: ({ payload }: { payload?: { authorization?: string } }) => contextOf(payload?.authorization, true),
    wsDefaultSubprotocol: 'graphql-transport-ws',
  },
});
await listenForEvents();
await app.listen({ port, host: '127.0.0.1' });
ready();
