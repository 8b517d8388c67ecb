import type { IncomingMessage, ServerResponse } from 'node:http';
import type { OriginRules } from './credentials.ts';

/** What a route's handler is told of a request, besides the request. */
export interface RouteRequest {
  readonly url: URL;
  readonly origins: OriginRules;
  /** The client's address, after `TRUST_PROXY`. */
  readonly clientAddress: string;
}

/** An address of this server, or several of one kind. Those that are not the kernel's own `start` gives to the HTTP server. */
export interface Route {
  /** For metrics and the log; the `path` of a declared policy. */
  readonly name: string;
  matches(pathname: string): boolean;
  /** Answers the request. What it throws is logged, and answered by 500. */
  handle(req: IncomingMessage, res: ServerResponse, request: RouteRequest): Promise<void>;
}

/** Who may use an address, and how much, for the policy matrix. */
export interface RoutePolicy {
  /** The address; `*` stands for a part of it, and at the end for all that begin so. */
  readonly path: string;
  readonly methods: readonly string[];
  readonly description: string;
  /** What it asks for; `none` for everybody. */
  readonly authentication: string;
  /** What bounds its use. */
  readonly limits: string;
  /** Which pages of other origins may read its answers. */
  readonly cors: 'none' | 'CORS_ORIGINS';
}

const policies = new Map<string, RoutePolicy>();

/** Declares the policy of an address. The server serves no address without one. */
export function defineRoute(policy: RoutePolicy): RoutePolicy {
  if (policies.has(policy.path)) throw new Error(`Two routes are declared for ${policy.path}`);
  policies.set(policy.path, policy);
  return policy;
}

/** Every address declared so far, for the generated documentation. */
export const allRoutes = (): readonly RoutePolicy[] => [...policies.values()];

/** @throws for a route that nobody declared: it would be missing in the policy matrix */
export function checkDeclared(routes: readonly Route[]): void {
  const missing = routes.map(({ name }) => name).filter((name) => !policies.has(name));
  if (missing.length > 0) throw new Error(`Declare with defineRoute: ${missing.join(', ')}`);
}
