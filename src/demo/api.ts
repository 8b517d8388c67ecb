import { createClient, type Client } from 'graphql-ws';
import { WebSocket } from 'ws';

/** What a program outside would use: the public API over HTTP and WebSocket, nothing else. */
export interface Api {
  /** @throws with the errors as text */
  query<T>(document: string, variables?: object): Promise<T>;
  subscribe<T>(document: string, variables: Record<string, unknown>): AsyncIterableIterator<T>;
  close(): Promise<void>;
}

export function api(url: string, token: string | null): Api {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let socket: Client | null = null;
  return {
    async query<T>(document: string, variables: object = {}) {
      const response = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify({ query: document, variables }),
      });
      const body = (await response.json()) as { data?: T | null; errors?: unknown };
      if (body.errors || body.data == null) throw new Error(JSON.stringify(body.errors));
      return body.data;
    },
    async *subscribe<T>(document: string, variables: Record<string, unknown>) {
      socket ??= createClient({ url: url.replace(/^http/, 'ws'), webSocketImpl: WebSocket, connectionParams: headers });
      for await (const result of socket.iterate<T>({ query: document, variables })) {
        if (result.errors) throw new Error(JSON.stringify(result.errors));
        if (result.data) yield result.data;
      }
    },
    async close() {
      await socket?.dispose();
    },
  };
}

/** The success of a mutation's union. @throws with the error's code and message */
export function succeeded<T extends object>(result: { __typename: string; message?: string } & T): T {
  if (result.message !== undefined) throw new Error(`${result.__typename}: ${result.message}`);
  return result;
}
