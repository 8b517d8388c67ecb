import type { IncomingMessage, ServerResponse } from 'node:http';
import type { App } from '#kernel/app.ts';
import { RateLimited } from '#kernel/errors.ts';
import { held, readRaw } from '#kernel/http/body.ts';
import { defineRoute, type Route } from '#kernel/http/routes.ts';
import { defineThrottle, Throttles } from '#kernel/rates/throttles.ts';
import { maxBodyBytes } from './model.ts';
import { Deliveries, isSignature, vouched, webhookPath } from './service/index.ts';

const limits =
  '25 MiB a body; 200 MiB of all of more than 1 MiB that are being read; the throttle repositories.deliveries';
const appRoute = defineRoute({
  path: webhookPath,
  methods: ['POST'],
  description: "Deliveries of the server's GitHub App. Closed without GITHUB_WEBHOOK_SECRETS.",
  authentication: 'X-Hub-Signature-256 by one of GITHUB_WEBHOOK_SECRETS',
  limits,
  cors: 'none',
});
const connectionRoute = defineRoute({
  path: `${webhookPath}/*`,
  methods: ['POST'],
  description: 'Deliveries for one connected repository of a workspace.',
  authentication: 'X-Hub-Signature-256 by the secret of that connection, or, for a day, the one before',
  limits,
  cors: 'none',
});

/** Signed messages, by who vouches for them. Others are not counted: everybody's come from GitHub's own addresses. */
const deliveriesThrottle = defineThrottle({
  name: 'repositories.deliveries',
  description: "Signed deliveries of GitHub, by connected repository; of the server's App together",
  points: 1200,
  durationS: 60,
});

/**
 * Of all large deliveries at once, bytes: half of what may wait in the server. Who fills it with what is not signed keeps
 * out no common delivery, and nothing else.
 */
const maxReadingBytes = held.most / 2;
/** Larger than that is large, bytes. */
const largeBytes = 2 ** 20;
const bodyTimeoutMs = 20_000;
const uuid = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i;

/** Where GitHub delivers to. */
export function webhookRoutes(app: App): Route[] {
  let reading = 0;

  const receive = async (req: IncomingMessage, res: ServerResponse, connectionId: string | null): Promise<void> => {
    const { headers } = req;
    if (req.method !== 'POST') {
      res.setHeader('allow', 'POST');
      return answer(res, 405, 'METHOD_NOT_ALLOWED', 'Only POST.');
    }
    const signature = headers['x-hub-signature-256'];
    if (!isSignature(signature)) return refused(res);
    const [type] = (headers['content-type'] ?? '').split(';');
    if (type?.trim().toLowerCase() !== 'application/json' || (headers['content-encoding'] ?? 'identity') !== 'identity')
      return answer(res, 415, 'UNSUPPORTED_MEDIA_TYPE', 'Choose the content type application/json at GitHub.');
    const said = Number(headers['content-length'] ?? maxBodyBytes);
    const most = Number.isFinite(said) ? Math.min(said, maxBodyBytes) : maxBodyBytes;
    const announced = most > largeBytes ? most : 0;
    if (reading + announced > maxReadingBytes) {
      res.setHeader('retry-after', '5');
      return answer(res, 503, 'BUSY', 'Too many deliveries at once.');
    }
    reading += announced;
    try {
      await take(req, res, signature, connectionId);
    } finally {
      // All of it, also while its signature is looked at.
      reading -= announced;
    }
  };

  const take = async (
    req: IncomingMessage,
    res: ServerResponse,
    signature: string,
    connectionId: string | null,
  ): Promise<void> => {
    const { headers } = req;
    const raw = await readRaw(req, maxBodyBytes, bodyTimeoutMs);
    if (raw === 'gone') return;
    if (raw === 'full') {
      res.setHeader('retry-after', '5');
      return answer(res, 503, 'BUSY', 'Too many large requests at once.');
    }
    if (raw === 'slow') return answer(res, 408, 'BODY_TOO_SLOW', 'The body took too long to arrive.');
    if (raw === 'large') return answer(res, 413, 'BODY_TOO_LARGE', `The body has more than ${maxBodyBytes} bytes.`);
    const body = decoded(raw);
    // What GitHub signs is UTF-8.
    const by = body === null ? null : await vouched(app, { connectionId, body, signature });
    if (body === null || !by) return refused(res);
    try {
      await app.use(Throttles).consume(deliveriesThrottle, connectionId ?? 'app');
    } catch (error) {
      if (!(error instanceof RateLimited)) throw error;
      res.setHeader('retry-after', String(Math.max(1, Math.ceil((error.resetAt.getTime() - Date.now()) / 1000))));
      return answer(res, 429, 'RATE_LIMITED', 'Too many deliveries.');
    }
    const [guid, event] = [headers['x-github-delivery'], headers['x-github-event']];
    const payload = parsed(body);
    if (typeof guid !== 'string' || !uuid.test(guid) || typeof event !== 'string' || !/^[a-z0-9_]{1,60}$/.test(event))
      return answer(res, 400, 'BAD_REQUEST', 'X-GitHub-Delivery or X-GitHub-Event is missing or malformed.');
    if (payload === null) return answer(res, 400, 'BAD_REQUEST', 'The body is no JSON object.');
    await app.use(Deliveries).receive({ trusted: by.trusted, guid: guid.toLowerCase(), event, body, payload });
    return answer(res, 202, 'ACCEPTED', 'It will be processed.');
  };

  return [
    {
      name: appRoute.path,
      matches: (pathname) => pathname === webhookPath,
      handle: (req, res) => receive(req, res, null),
    },
    {
      name: connectionRoute.path,
      matches: (pathname) => pathname.startsWith(`${webhookPath}/`),
      handle: (req, res, { url }) => receive(req, res, url.pathname.slice(webhookPath.length + 1)),
    },
  ];
}

const refused = (res: ServerResponse): void =>
  answer(res, 401, 'UNAUTHENTICATED', 'X-Hub-Signature-256 is missing, or is not by a secret that is known here.');

function answer(res: ServerResponse, status: number, code: string, message: string): void {
  // The rest of a body that nobody reads is not taken for the next request.
  if (!res.req.complete) res.setHeader('connection', 'close');
  res.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-store' });
  res.end(JSON.stringify({ code, message }));
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decoded(raw: Buffer): string | null {
  try {
    return utf8.decode(raw);
  } catch (error) {
    if (error instanceof TypeError) return null;
    throw error;
  }
}

function parsed(body: string): object | null {
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
