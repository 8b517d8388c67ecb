import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import type { App } from '#kernel/app.ts';
import { anonymous, type Actor } from '#kernel/auth/actor.ts';
import { signInCookie } from '#kernel/auth/actors.ts';
import { Unauthenticated } from '#kernel/errors.ts';
import {
  cookieName,
  cookieOf,
  originOf,
  sessionCookieHeader,
  sessionOf,
  type OriginRules,
} from '#kernel/http/credentials.ts';
import { defineRoute, type Route, type RouteRequest } from '#kernel/http/routes.ts';
import { ArrivalRefused } from './errors.ts';
import { NotIn, OutsideSignIns, safeReturn, signInTtlS, type Step } from './service/sign-in.ts';
import { ssoPath } from './service/sso.ts';

const limits = 'the throttle identity.outside.network';
const ssoRoute = defineRoute({
  path: '/auth/sso/*',
  methods: ['GET'],
  description:
    "Sends a browser to a workspace's provider; `?returnTo=` says where it goes when it is signed in. Sent here by another site, its person is asked first.",
  authentication: 'none',
  limits,
  cors: 'none',
});
const ssoCallbackRoute = defineRoute({
  path: '/auth/sso/*/callback',
  methods: ['GET'],
  description: "Where a browser comes back to from a workspace's provider. Sets the session cookie.",
  authentication: 'the browser that began, by its cookie, once; the answer of the provider',
  limits,
  cors: 'none',
});
const gitHubRoute = defineRoute({
  path: '/auth/github',
  methods: ['GET'],
  description:
    'Sends a browser to GitHub, in the same way; `?link=` of `beginIdentityLink` links who they are there to their account.',
  authentication: 'none; for linking the session cookie, and what `beginIdentityLink` gave to that session, once',
  limits,
  cors: 'none',
});
const gitHubCallbackRoute = defineRoute({
  path: '/auth/github/callback',
  methods: ['GET'],
  description: 'Where a browser comes back to from GitHub. Sets the session cookie.',
  authentication: 'the browser that began, by its cookie, once; the answer of GitHub',
  limits,
  cors: 'none',
});

/** A page that is shown before anything is begun. */
interface Question {
  readonly page: string;
}

/**
 * Whether a page of another site sent the browser here. It could send somebody into an account of its own choice; so
 * may an application at an allowed origin, which browsers tell us by the referrer only. What does not say where it
 * comes from is no browser, or one from before 2023.
 * @see https://www.w3.org/TR/fetch-metadata/
 */
function fromElsewhere(headers: IncomingHttpHeaders, { allowed }: OriginRules): boolean {
  const site = headers['sec-fetch-site'];
  if (site === undefined || site === 'same-origin' || site === 'none') return false;
  return !allowed.has(URL.parse(headers.referer ?? '')?.origin ?? '');
}

const asHtml = (text: string): string => text.replaceAll(/[&<>"']/g, (one) => `&#${one.charCodeAt(0)};`);

/** Addresses of browsers that sign in at another system. */
export function authRoutes(
  app: App,
  options: { readonly secureCookies: boolean; readonly baseUrl: () => string },
): Route[] {
  /** What the browser keeps while its person is at another system. A name with the prefix is for all paths. */
  const cookie = cookieName(signInCookie, options.secureCookies);
  const cookiePath = options.secureCookies ? '/' : '/auth';
  const keptHeader = (kept: string | null): string =>
    `${cookie}=${kept ?? ''}; Max-Age=${kept === null ? 0 : signInTtlS}; Path=${cookiePath}; HttpOnly; SameSite=Lax${
      options.secureCookies ? '; Secure' : ''
    }`;

  const go = (res: ServerResponse, { location, kept, session }: Step): void => {
    const cookies = [keptHeader(kept)];
    if (session) cookies.push(sessionCookieHeader(session, options.secureCookies));
    res.writeHead(302, {
      location,
      'set-cookie': cookies,
      'cache-control': 'no-store',
      'referrer-policy': 'no-referrer',
    });
    res.end();
  };

  const tell = (res: ServerResponse, { refusal, returnTo }: NotIn): void => {
    res.setHeader('set-cookie', keptHeader(null));
    res.setHeader('cache-control', 'no-store');
    if (returnTo === null) {
      res.writeHead(statusOf(refusal), { 'content-type': 'application/json; charset=utf-8' });
      res.end(JSON.stringify({ code: refusal.code, message: refusal.message }));
      return;
    }
    const [address = '', hash] = returnTo.split('#', 2);
    const error = `${address.includes('?') ? '&' : '?'}error=${refusal.code}`;
    res.writeHead(302, { location: `${address}${error}${hash === undefined ? '' : `#${hash}`}` });
    res.end();
  };

  const answering = async (
    req: IncomingMessage,
    res: ServerResponse,
    step: () => Promise<Step | Question>,
  ): Promise<void> => {
    if (req.method !== 'GET') {
      res.writeHead(405, { allow: 'GET', 'content-type': 'application/json; charset=utf-8' });
      res.end(JSON.stringify({ code: 'METHOD_NOT_ALLOWED', message: 'Only GET.' }));
      return;
    }
    try {
      const next = await step();
      if ('location' in next) {
        go(res, next);
        return;
      }
      res.writeHead(200, { 'content-type': 'text/html; charset=utf-8' });
      res.end(next.page);
    } catch (error) {
      if (!(error instanceof NotIn)) throw error;
      tell(res, error);
    }
  };

  const strangerOf = (req: IncomingMessage, { clientAddress }: RouteRequest): Actor => ({
    ...anonymous,
    origin: originOf(req, clientAddress),
  });

  /** Whoever is signed in in this browser. Only for what a sealed text of their own session, or the state of a sign-in, vouches for. */
  const signedInOf = async (req: IncomingMessage, request: RouteRequest): Promise<Actor> => {
    const session = sessionOf(req.headers, request.origins);
    const stranger = strangerOf(req, request);
    if (!session) return stranger;
    return app.actors.authenticate({ session }, stranger.origin).catch((error: unknown) => {
      if (error instanceof Unauthenticated) return stranger;
      throw error;
    });
  };

  /** @throws {NotIn} */
  const returnTo = ({ url, origins }: RouteRequest): string => {
    const [given, ...more] = url.searchParams.getAll('returnTo');
    const safe = more.length > 0 ? null : safeReturn(given ?? '/', options.baseUrl(), origins.allowed);
    if (safe === null) throw new NotIn(new ArrivalRefused('RETURN_TO_REFUSED'), null);
    return safe;
  };

  /** Asks whether somebody means to sign in whom another site sent here; a page without anything that runs. */
  const ask = async (req: IncomingMessage, request: RouteRequest, connectionId: string | null): Promise<Question> => {
    const back = returnTo(request);
    const { name, host } = await app
      .use(OutsideSignIns)
      .provider({ actor: strangerOf(req, request) }, connectionId, back);
    const path = connectionId === null ? gitHubRoute.path : ssoPath(connectionId);
    const where = host === null ? '' : ` (${asHtml(host)})`;
    return {
      page: `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Sign in</title>
<p>Another site sent you here. Continue to sign in with <strong><bdi>${asHtml(name)}</bdi></strong>${where}?</p>
<p><a href="${asHtml(`${path}?returnTo=${encodeURIComponent(back)}`)}">Continue</a></p>
</html>
`,
    };
  };

  return [
    {
      name: ssoCallbackRoute.path,
      matches: (pathname) => /^\/auth\/sso\/[^/]+\/callback$/.test(pathname),
      handle: (req, res, request) =>
        answering(req, res, async () => {
          const connectionId = request.url.pathname.split('/')[3] ?? '';
          const actor = await signedInOf(req, request);
          const kept = cookieOf(req.headers.cookie, cookie);
          return app.use(OutsideSignIns).finish({ actor }, connectionId, kept, request.url);
        }),
    },
    {
      name: ssoRoute.path,
      matches: (pathname) => /^\/auth\/sso\/[^/]+$/.test(pathname),
      handle: (req, res, request) =>
        answering(req, res, async () => {
          const connectionId = request.url.pathname.slice('/auth/sso/'.length);
          if (fromElsewhere(req.headers, request.origins)) return ask(req, request, connectionId);
          return app.use(OutsideSignIns).beginSso({ actor: strangerOf(req, request) }, connectionId, returnTo(request));
        }),
    },
    {
      name: gitHubRoute.path,
      matches: (pathname) => pathname === gitHubRoute.path,
      handle: (req, res, request) =>
        answering(req, res, async () => {
          const link = request.url.searchParams.get('link');
          if (link === null && fromElsewhere(req.headers, request.origins)) return ask(req, request, null);
          const actor = link === null ? strangerOf(req, request) : await signedInOf(req, request);
          return app.use(OutsideSignIns).beginGitHub({ actor }, returnTo(request), link);
        }),
    },
    {
      name: gitHubCallbackRoute.path,
      matches: (pathname) => pathname === gitHubCallbackRoute.path,
      handle: (req, res, request) =>
        answering(req, res, async () => {
          const actor = await signedInOf(req, request);
          return app.use(OutsideSignIns).finish({ actor }, null, cookieOf(req.headers.cookie, cookie), request.url);
        }),
    },
  ];
}

function statusOf({ code }: ArrivalRefused): number {
  if (code === 'PROVIDER_UNAVAILABLE') return 503;
  if (code === 'PROVIDER_UNKNOWN') return 404;
  return code === 'RATE_LIMITED' ? 429 : 400;
}
