import { createServer } from 'node:http';
import { useServer } from 'graphql-ws/use/ws';
import { createYoga } from 'graphql-yoga';
import { WebSocketServer } from 'ws';
import { listenForEvents } from './shared/feed.ts';
import { contextOf, schema, type Context } from './shared/schema.ts';
import { listen } from './shared/serve.ts';

// GraphQL Yoga and graphql-ws as their documentation puts them together.

const yoga = createYoga<object, Context>({
  schema,
  logging: false,
  graphiql: false,
  landingPage: false,
  context: ({ request }) => contextOf(request.headers.get('authorization') ?? undefined),
});
const server = createServer((request, response) => void yoga(request, response));
useServer<{ authorization?: string }>(
  {
    schema,
    context: ({ connectionParams }) => contextOf(connectionParams?.authorization, true),
  },
  new WebSocketServer({ server, path: '/graphql', perMessageDeflate: false }),
);
await listenForEvents();
listen(server);
