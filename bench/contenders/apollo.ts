import { ApolloServer } from '@apollo/server';
import { startStandaloneServer } from '@apollo/server/standalone';
import { contextOf, schema, type Context } from './shared/schema.ts';
import { port, ready } from './shared/serve.ts';

const server = new ApolloServer<Context>({ schema });
await startStandaloneServer(server, {
  listen: { port, host: '127.0.0.1' },
  context: ({ req }) => contextOf(req.headers.authorization),
});
ready();
