import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { GraphQLError } from 'graphql';
import type { Origin } from '../auth/actor.ts';
import { sessionCookie, type Credentials } from '../auth/actors.ts';

export interface OriginRules {
  /** Exact origins that may send the session cookie from a browser: the server's own and the configured ones. */
  readonly allowed: ReadonlySet<string>;
  /** Whether cookies are for https only. */
  readonly secureCookies: boolean;
}

/**
 * What a cookie is called. Browsers take one with this prefix from this very host over https only: neither a neighbour
 * below the same domain nor whatever answers without TLS, such as an application on another port, can put one of its
 * own choice in its place and so have somebody signed in as somebody else.
 * @see https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#name-the-__host-prefix
 */
export const cookieName = (name: string, secure: boolean): string => (secure ? `__Host-${name}` : name);

/** The session that a browser's cookie names. */
export const sessionOf = (headers: IncomingHttpHeaders, { secureCookies }: OriginRules): string | undefined =>
  cookieOf(headers.cookie, cookieName(sessionCookie, secureCookies));

const one = (value: string | string[] | undefined): string | undefined => (Array.isArray(value) ? value[0] : value);

export function cookieOf(header: string | undefined, name: string): string | undefined {
  for (const part of header?.split(';') ?? []) {
    const at = part.indexOf('=');
    if (at > 0 && part.slice(0, at).trim() === name) return part.slice(at + 1).trim();
  }
  return undefined;
}

/**
 * What a request identifies itself with. A session cookie counts only when the request cannot have been made by
 * another site's page: a browser sends cookies whoever asks.
 * @throws GraphQLError `CSRF_REFUSED` (403) for a cookie that another site may have caused to be sent
 */
export function credentialsOf(headers: IncomingHttpHeaders, rules: OriginRules): Credentials {
  const authorization = one(headers.authorization);
  const apiKey = one(headers['x-api-key']);
  if (authorization || apiKey) return { authorization, apiKey };
  const session = sessionOf(headers, rules);
  if (session && !sameSite(headers, rules)) {
    throw new GraphQLError(
      'A request with the session cookie must come from an allowed origin, or carry the header GraphQL-Require-Preflight.',
      {
        extensions: { code: 'CSRF_REFUSED', http: { status: 403, spec: true } },
      },
    );
  }
  return { session };
}

/** @see https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html */
export function sameSite(headers: IncomingHttpHeaders, rules: OriginRules): boolean {
  if (headers.origin !== undefined) return rules.allowed.has(headers.origin);
  const site = one(headers['sec-fetch-site']);
  if (site !== undefined) return site === 'same-origin' || site === 'none';
  // No browser of today, or one that was asked to preflight: another site cannot set this header without permission.
  return headers['graphql-require-preflight'] !== undefined;
}

/** Whether a browser says that a page of another site made the request. What is no browser says nothing. */
export const fromOtherSite = (headers: IncomingHttpHeaders, rules: OriginRules): boolean =>
  (headers.origin !== undefined || headers['sec-fetch-site'] !== undefined) && !sameSite(headers, rules);

/** Where a request comes from; `address` as far as the trusted proxies tell it. */
export const originOf = (req: IncomingMessage, address: string): Origin => ({
  address: address.slice(0, 45),
  userAgent: (req.headers['user-agent'] ?? '').slice(0, 300),
});

/** Clears or sets the cookie. @see https://www.rfc-editor.org/rfc/rfc6265 */
export function sessionCookieHeader(session: { token: string; expiresAt: Date } | null, secure: boolean): string {
  const value = session
    ? `${session.token}; Expires=${session.expiresAt.toUTCString()}`
    : '; Expires=Thu, 01 Jan 1970 00:00:00 GMT';
  return `${cookieName(sessionCookie, secure)}=${value}; Path=/; HttpOnly; SameSite=Lax${secure ? '; Secure' : ''}`;
}
