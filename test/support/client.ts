import { createClient, type Client, type ClientOptions } from 'graphql-ws';
import { WebSocket } from 'ws';

export interface Auth {
  readonly token?: string;
  readonly apiKey?: string;
}

export interface Answer<T = Record<string, never>> {
  readonly status: number;
  readonly data: T | null;
  readonly errors?: readonly {
    readonly message: string;
    readonly path?: readonly unknown[];
    readonly extensions?: Record<string, unknown>;
  }[];
  readonly headers: Headers;
}

export function headersOf(auth: Auth = {}): Record<string, string> {
  return {
    ...(auth.token ? { authorization: `Bearer ${auth.token}` } : {}),
    ...(auth.apiKey ? { 'x-api-key': auth.apiKey } : {}),
  };
}

/** One operation over HTTP. */
export async function send<T>(
  url: string,
  query: string,
  variables: object = {},
  auth: Auth = {},
  headers: Record<string, string> = {},
): Promise<Answer<T>> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headersOf(auth), ...headers },
    body: JSON.stringify({ query, variables }),
  });
  const body = (await response.json()) as { data?: T; errors?: Answer<T>['errors'] };
  return {
    status: response.status,
    data: body.data ?? null,
    headers: response.headers,
    ...(body.errors ? { errors: body.errors } : {}),
  };
}

/** The same; throws on errors. */
export async function data<T>(url: string, query: string, variables: object = {}, auth: Auth = {}): Promise<T> {
  const answer = await send<T>(url, query, variables, auth);
  if (answer.errors || !answer.data) throw new Error(`${JSON.stringify(answer.errors)} for ${query.slice(0, 200)}`);
  return answer.data;
}

export function socket(url: string, auth: Auth = {}, options: Partial<ClientOptions> = {}): Client {
  return createClient({
    url: url.replace(/^http/, 'ws'),
    webSocketImpl: WebSocket,
    connectionParams: headersOf(auth),
    retryAttempts: 0,
    ...options,
  });
}

/** Values of a subscription until `until` holds for one, or it ends. */
export async function collect<T>(
  client: Client,
  query: string,
  variables: Record<string, unknown>,
  until: (value: T) => boolean,
): Promise<T[]> {
  const values: T[] = [];
  for await (const result of client.iterate<T>({ query, variables })) {
    if (result.errors) throw new Error(JSON.stringify(result.errors));
    if (result.data == null) continue;
    values.push(result.data);
    if (until(result.data)) break;
  }
  return values;
}
