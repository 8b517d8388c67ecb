import type { App } from '#kernel/app.ts';
import { startHttpServer, type HttpOptions, type HttpServer } from '#kernel/http/server.ts';
import { schema } from '../../src/schema.ts';

/** Another HTTP server on an app, with what a test wants otherwise. */
export function httpServer(app: App, options: Partial<HttpOptions> = {}): Promise<HttpServer> {
  return startHttpServer({
    app,
    schema,
    host: '127.0.0.1',
    port: 0,
    publicUrl: undefined,
    corsOrigins: [],
    trustProxy: 0,
    maxBodyBytes: 65_536,
    secureCookies: false,
    graphql: { introspection: true, graphiql: null, persisted: null },
    limits: {
      depth: 12,
      aliases: 30,
      cost: 5000,
      tokens: 2000,
      batch: 10,
      socketsPerActor: 50,
      subscriptionsPerSocket: 100,
    },
    storage: async () => false,
    checks: {},
    metrics: null,
    ...options,
  });
}
