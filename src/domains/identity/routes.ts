import type { IncomingMessage, ServerResponse } from 'node:http';
import type { App } from '#kernel/app.ts';
import { anonymous, type Actor } from '#kernel/auth/actor.ts';
import { sessionCookie } from '#kernel/auth/actors.ts';
import { Unauthenticated } from '#kernel/errors.ts';
import { cookieOf, originOf, sameSite, sessionCookieHeader } from '#kernel/http/credentials.ts';
import { defineRoute, type Route, type RouteRequest } from '#kernel/http/routes.ts';
import { ArrivalRefused } from './errors.ts';
import { NotIn, OutsideSignIns, safeReturn, signInTtlS, type Step } from './service/sign-in.ts';

const limits = 'the throttle identity.outside.network';
const ssoRoute = defineRoute({
  path: '/auth/sso/*',
  methods: ['GET'],
  description: "Sends a browser to a workspace's provider; `?returnTo=` says where it goes when it is signed in.",
  authentication: 'none',
  limits,
  cors: 'none',
});
const ssoCallbackRoute = defineRoute({
  path: '/auth/sso/callback',
  methods: ['GET'],
  description: "Where a browser comes back to from a workspace's provider. Sets the session cookie.",
  authentication: 'the browser that began, by its cookie, once; the answer of the provider',
  limits,
  cors: 'none',
});
const gitHubRoute = defineRoute({
  path: '/auth/github',
  methods: ['GET'],
  description: 'Sends a browser to GitHub; `?link=1` links who they are there to the account that is signed in.',
  authentication: 'none; for linking the session cookie, from an allowed page',
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

/** What the browser keeps while its person is at another system. */
const cookie = 'switchyard_sign_in';
const cookiePath = '/auth';

/** Addresses of browsers that sign in at another system. */
export function authRoutes(
  app: App,
  options: { readonly secureCookies: boolean; readonly baseUrl: () => string },
): Route[] {
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

  const answering = async (req: IncomingMessage, res: ServerResponse, step: () => Promise<Step>): Promise<void> => {
    if (req.method !== 'GET') {
      res.writeHead(405, { allow: 'GET', 'content-type': 'application/json; charset=utf-8' });
      res.end(JSON.stringify({ code: 'METHOD_NOT_ALLOWED', message: 'Only GET.' }));
      return;
    }
    try {
      go(res, await step());
    } catch (error) {
      if (!(error instanceof NotIn)) throw error;
      tell(res, error);
    }
  };

  const strangerOf = (req: IncomingMessage, { clientAddress }: RouteRequest): Actor => ({
    ...anonymous,
    origin: originOf(req, clientAddress),
  });

  /** Whoever is signed in in this browser. Only for what its own page, or the state of a sign-in, vouches for. */
  const signedInOf = async (req: IncomingMessage, request: RouteRequest): Promise<Actor> => {
    const session = cookieOf(req.headers.cookie, sessionCookie);
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

  return [
    {
      name: ssoCallbackRoute.path,
      matches: (pathname) => pathname === ssoCallbackRoute.path,
      handle: (req, res, request) =>
        answering(req, res, () =>
          app
            .use(OutsideSignIns)
            .finish({ actor: strangerOf(req, request) }, 'SSO', cookieOf(req.headers.cookie, cookie), request.url),
        ),
    },
    {
      name: ssoRoute.path,
      matches: (pathname) => /^\/auth\/sso\/[^/]+$/.test(pathname),
      handle: (req, res, request) =>
        answering(req, res, () => {
          const connectionId = request.url.pathname.slice('/auth/sso/'.length);
          return app.use(OutsideSignIns).beginSso({ actor: strangerOf(req, request) }, connectionId, returnTo(request));
        }),
    },
    {
      name: gitHubRoute.path,
      matches: (pathname) => pathname === gitHubRoute.path,
      handle: (req, res, request) =>
        answering(req, res, async () => {
          const link = request.url.searchParams.has('link');
          // A page of another site could have somebody link an account that is not theirs.
          const own = link && sameSite(req.headers, request.origins);
          const actor = own ? await signedInOf(req, request) : strangerOf(req, request);
          return app.use(OutsideSignIns).beginGitHub({ actor }, returnTo(request), link);
        }),
    },
    {
      name: gitHubCallbackRoute.path,
      matches: (pathname) => pathname === gitHubCallbackRoute.path,
      handle: (req, res, request) =>
        answering(req, res, async () => {
          const actor = await signedInOf(req, request);
          return app.use(OutsideSignIns).finish({ actor }, 'GITHUB', cookieOf(req.headers.cookie, cookie), request.url);
        }),
    },
  ];
}

function statusOf({ code }: ArrivalRefused): number {
  if (code === 'PROVIDER_UNAVAILABLE') return 503;
  if (code === 'PROVIDER_UNKNOWN') return 404;
  return code === 'RATE_LIMITED' ? 429 : 400;
}
