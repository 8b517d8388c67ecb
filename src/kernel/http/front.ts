import type { IncomingMessage, ServerResponse } from 'node:http';
import { processRegularResult, type FetchAPI, type GraphQLParams } from 'graphql-yoga';
import type { Logger } from '../log.ts';
import { maskError } from './errors.ts';
import { corsOf, documentOf, requestIdHeader, type Persisted, type Yoga } from './yoga.ts';

export interface FrontOptions {
  readonly yoga: Yoga;
  readonly persisted: Persisted | null;
  readonly corsOrigins: readonly string[];
  readonly log: Logger;
}

/**
 * Answers a POST of one query or mutation whose answer is one JSON text.
 * @param text the body, read and bounded
 * @returns false: it is for Yoga to answer, and nothing was done
 */
export type Front = (req: IncomingMessage, res: ServerResponse, text: string) => Promise<boolean>;

/**
 * The common case without the fetch API: what Yoga does for it from the parameters on, with all of its plugins, is asked
 * of Yoga, and so is the answer's status, headers and text. Only the way there and back is a shorter one; streams,
 * batches, GET, preflights and every request that is malformed go the long way.
 * @see https://graphql.github.io/graphql-over-http/
 */
export function createFront({ yoga, persisted, corsOrigins, log }: FrontOptions): Front {
  const { getResultForParams } = yoga;
  const cors = new Map(corsOrigins.map((origin) => [origin, headersOf(corsOf(origin))]));

  return async (req, res, text) => {
    const mediaType = mediaTypeOf(req.headers.accept);
    const params = mediaType && isJson(req.headers['content-type']) ? paramsOf(text, persisted) : null;
    if (!mediaType || !params) return false;
    let answer: Answer;
    try {
      const result = await getResultForParams({ params, request: asked }, { req, res });
      answer = answerOf(result, mediaType);
    } catch (error) {
      const requestId = String(res.getHeader(requestIdHeader));
      answer = answerOf({ errors: maskAll(error, requestId, log) }, mediaType);
    }
    // The client is gone.
    if (res.destroyed) return true;
    res.writeHead(answer.status, {
      ...answer.headers,
      'Content-Length': Buffer.byteLength(answer.text),
      ...(req.headers.origin === undefined ? undefined : cors.get(req.headers.origin)),
    });
    res.end(answer.text);
    return true;
  };
}

/** All that Yoga's plugins look at of a request whose parameters were read. */
const asked = { method: 'POST' } as Request;

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
}

/** What Yoga makes of a result instead of a `Response`. */
class PlainResponse implements Answer {
  readonly text: string;
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  constructor(text: string, { status, headers }: { status: number; headers: Record<string, string> }) {
    this.text = text;
    this.status = status;
    this.headers = headers;
  }
}
const plain = { Response: PlainResponse } as unknown as FetchAPI;

const answerOf = (result: unknown, mediaType: string): Answer =>
  processRegularResult(result as Parameters<typeof processRegularResult>[0], plain, mediaType) as unknown as Answer;

/** What was thrown before there was an operation: one error, or the several that it says it is. */
function maskAll(error: unknown, requestId: string, log: Logger): ReturnType<typeof maskError>[] {
  return error instanceof AggregateError
    ? error.errors.flatMap((one) => maskAll(one, requestId, log))
    : [maskError(error, requestId, log)];
}

/** As Yoga compares it, to the letter. */
const isJson = (type: string | undefined): boolean =>
  type === 'application/json' || (type?.startsWith('application/json;') ?? false);

/** The parameters of one operation that is no subscription; null: Yoga says what is wrong with them. */
function paramsOf(text: string, persisted: Persisted | null): GraphQLParams | null {
  const params = parsed(text);
  if (typeof params !== 'object' || params === null || Array.isArray(params)) return null;
  const source: unknown = documentOf(params, persisted);
  // A document without the word has no subscription; one with it may have.
  return typeof source === 'string' && !source.includes('subscription') ? params : null;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

const mediaTypes = ['application/graphql-response+json', 'application/json'] as const;
type MediaType = (typeof mediaTypes)[number];

/** What values of `Accept` were found to mean: there are few that differ. */
const accepted = new Map<string, MediaType | null>();

function mediaTypeOf(accept = '*/*'): MediaType | null {
  let found = accepted.get(accept);
  if (found === undefined) {
    found = chosenOf(accept);
    if (accepted.size >= 100) accepted.clear();
    if (accept.length <= 200) accepted.set(accept, found);
  }
  return found;
}

/** The type that Yoga chooses: of those that the client names the first, without regard to their `q`. */
function chosenOf(accept: string): MediaType | null {
  for (const one of (accept || '*/*').replaceAll(/\s/g, '').toLowerCase().split(',')) {
    const [name = '', ...parameters] = one.split(';');
    const charset = parameters.find((parameter) => parameter.includes('charset=')) ?? 'charset=utf-8';
    if (charset !== 'charset=utf-8') continue;
    const [type, subtype] = name.split('/');
    // Of two that fit, Yoga takes the one that clients have known for longer.
    const fitting = mediaTypes.findLast((mediaType) => {
      const [own, ownSubtype] = mediaType.split('/');
      return (type === '*' || type === own) && (subtype === '*' || subtype === ownSubtype);
    });
    if (fitting) return fitting;
  }
  return null;
}

/** The headers that Yoga makes of its options for CORS. */
const headersOf = (options: ReturnType<typeof corsOf>): Record<string, string> => ({
  'Access-Control-Allow-Origin': options.origin.join(', '),
  'Access-Control-Allow-Methods': options.methods.join(', '),
  'Access-Control-Allow-Headers': options.allowedHeaders.join(', '),
  'Access-Control-Allow-Credentials': String(options.credentials),
  'Access-Control-Expose-Headers': options.exposedHeaders.join(', '),
  'Access-Control-Max-Age': String(options.maxAge),
});
