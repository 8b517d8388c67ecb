import type { IncomingMessage, ServerResponse } from 'node:http';
import type { App } from '../app.ts';
import { fromOtherSite } from '../http/credentials.ts';
import { defineRoute, type Route } from '../http/routes.ts';
import { Mail } from './mail.ts';

const policy = defineRoute({
  path: '/dev/mail',
  methods: ['GET'],
  description: 'Mails of the outbox, outside production and without a mail server.',
  authentication: 'none; from this machine only',
  limits: 'none',
  cors: 'none',
});

/**
 * `GET /dev/mail`: the mails of the outbox, newest first, `?to=` those to one address; an array of
 * `{ id, to, subject, text, at }`. For development only: who reads it signs in as anybody.
 *
 * It answers the people of this machine, not what their browsers run into: the name that the request is for must be
 * one of loopback, because a page's own name may lead here too (DNS rebinding), nothing may have passed it on, and no
 * other site's page may have made it.
 * @see https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
 */
export const outboxRoute = (app: App): Route => ({
  name: policy.path,
  matches: (pathname) => pathname === policy.path,
  async handle(req, res, { url, origins }) {
    if (req.method !== 'GET') {
      res.setHeader('allow', 'GET');
      answer(res, 405, { code: 'METHOD_NOT_ALLOWED', message: 'Only GET.' });
    } else if (!forLoopback(req) || fromOtherSite(req.headers, origins)) {
      answer(res, 403, { code: 'FORBIDDEN', message: 'The outbox is for this machine only.' });
    } else {
      const mails = await app.use(Mail).outbox({ to: url.searchParams.get('to') ?? undefined });
      answer(
        res,
        200,
        mails.map(({ id, to, subject, text, at }) => ({ id, to, subject, text, at })),
      );
    }
  },
});

/** Names of this machine in `Host`, with any port. */
const loopbackHost = /^(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?$/i;
const passedOn = ['forwarded', 'via', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip'] as const;

const forLoopback = ({ headers }: IncomingMessage): boolean =>
  loopbackHost.test(headers.host ?? '') && passedOn.every((name) => headers[name] === undefined);

function answer(res: ServerResponse, status: number, body: object): void {
  // The rest of a body that nobody reads is not taken for the next request.
  if (!res.req.complete) res.setHeader('connection', 'close');
  res.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-store' });
  res.end(JSON.stringify(body));
}
