import type { IncomingMessage, ServerResponse } from 'node:http';
import { getOperationAST, OperationTypeNode, type DocumentNode, type ExecutionResult } from 'graphql';
import { processRegularResult, type FetchAPI, type GraphQLParams } from 'graphql-yoga';
import type { Logger } from '../log.ts';
import type { Rate } from '../rates/budgets.ts';
import { rateHeaders } from './admission.ts';
import type { Documents } from './documents.ts';
import { maskError } from './errors.ts';
import { goneOf } from './gone.ts';
import { corsOf, documentOf, requestIdHeader, type Persisted, type ServerContext, type Yoga } from './yoga.ts';

export interface FrontOptions {
  readonly yoga: Yoga;
  /** Those that were found good; default: none is known. */
  readonly documents?: Documents;
  readonly persisted: Persisted | null;
  readonly corsOrigins: readonly string[];
  /** Headers of every answer. */
  readonly everyAnswer?: readonly (readonly [name: string, value: string])[];
  readonly log: Logger;
}

/** A request whose answer has no headers yet. */
export interface Arrived {
  readonly requestId: string;
  /** Gives the answer the headers that every one has; to be called before anything is done that Yoga or others answer. */
  readonly prepare: () => void;
}

/**
 * Answers a POST of one query or mutation whose answer is one JSON text.
 * @param text the body, read and bounded
 * @returns false: it is for Yoga to answer, and nothing was done but `prepare`
 */
export type Front = (
  req: IncomingMessage,
  res: ServerResponse,
  text: string,
  arrived?: Arrived,
) => boolean | Promise<boolean>;

/**
 * The common case without the fetch API: what Yoga does for it from the parameters on, with all of its plugins, is asked
 * of Yoga, and so is the answer's status, headers and text. Only the way there and back is a shorter one; streams,
 * batches, GET, preflights and every request that is malformed go the long way.
 *
 * A document that was parsed and found good is not looked at again: of Yoga's pipeline it goes through the context and
 * the execution, where all is that depends on who asks.
 * @see https://graphql.github.io/graphql-over-http/
 */
export function createFront(options: FrontOptions): Front {
  const { yoga, documents, persisted, corsOrigins, everyAnswer = [], log } = options;
  const { getResultForParams, getEnveloped } = yoga;
  const cors = new Map(corsOrigins.map((origin) => [origin, headersOf(corsOf(origin))]));
  const always = everyAnswer.flat();

  const masked = (error: unknown, requestId: string, mediaType: MediaType): Answer =>
    answerOf({ errors: maskAll(error, requestId, log) }, mediaType);

  /** All headers at once, which costs a third of setting each. */
  const send = (context: KnownContext, answer: Answer): true => {
    const { req, res, rate } = context;
    // The client is gone.
    if (res.destroyed) return true;
    const { origin } = req.headers;
    const headers = [...always, requestIdHeader, context.requestId];
    if (rate) {
      const [policy, state] = rateHeaders(rate);
      headers.push('RateLimit-Policy', policy, 'RateLimit', state);
    }
    for (const name in answer.headers) headers.push(name, answer.headers[name] ?? '');
    if (origin !== undefined) headers.push(...Object.entries(cors.get(origin) ?? {}).flat());
    const bytes = Buffer.byteLength(answer.text);
    headers.push('Content-Length', String(bytes));
    res.writeHead(answer.status, headers);
    // Text of one byte a character needs no look at each when it is written.
    res.end(answer.text, bytes === answer.text.length ? 'latin1' : 'utf8');
    return true;
  };

  const answerKnown = (context: KnownContext, document: DocumentNode, mediaType: MediaType) => {
    const failed = (error: unknown): true => send(context, masked(error, context.requestId, mediaType));
    const answered = (result: unknown): true => {
      let answer: Answer;
      try {
        answer = answerOf(result, mediaType);
      } catch (error) {
        return failed(error);
      }
      return send(context, answer);
    };
    try {
      const { params } = context;
      const { schema, contextFactory, execute } = getEnveloped(context);
      const executed = (contextValue: unknown): unknown =>
        execute({
          schema,
          document,
          contextValue,
          variableValues: params.variables,
          operationName: params.operationName,
        });
      const made: unknown = contextFactory();
      const result = made instanceof Promise ? made.then(executed) : executed(made);
      return result instanceof Promise ? result.then(answered, failed) : answered(result);
    } catch (error) {
      return failed(error);
    }
  };

  const answerOther = async (
    req: IncomingMessage,
    res: ServerResponse,
    params: GraphQLParams,
    mediaType: MediaType,
  ) => {
    let answer: Answer;
    try {
      const result = await getResultForParams({ params, request: asked }, { req, res });
      answer = answerOf(result, mediaType);
    } catch (error) {
      answer = masked(error, String(res.getHeader(requestIdHeader)), mediaType);
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

  return (req, res, text, arrived) => {
    const mediaType = mediaTypeOf(req.headers.accept);
    const params = mediaType && isJson(req.headers['content-type']) ? parsed(text) : null;
    if (mediaType && typeof params === 'object' && params !== null && !Array.isArray(params)) {
      const source: unknown = documentOf(params, persisted);
      if (typeof source === 'string') {
        const document = arrived && documents?.get(source);
        if (document && isPlain(params, persisted) && isAnswered(document, params.operationName)) {
          const known = { query: source, variables: params.variables, operationName: params.operationName };
          return answerKnown(
            new KnownContext(req, res, arrived.requestId, known as GraphQLParams),
            document,
            mediaType,
          );
        }
        arrived?.prepare();
        // A document without the word has no subscription; one with it may have.
        return source.includes('subscription') ? false : answerOther(req, res, params as GraphQLParams, mediaType);
      }
    }
    arrived?.prepare();
    return false;
  };
}

/** All that Yoga's plugins look at of a request whose parameters were read. */
const asked = { method: 'POST' } as Request;

/** What such an operation's context begins as; it becomes what resolvers are given. */
class KnownContext implements ServerContext {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly requestId: string;
  readonly params: GraphQLParams;
  readonly request = asked;
  readonly told = true;
  /** Set at admission. */
  rate: Rate | undefined = undefined;

  constructor(req: IncomingMessage, res: ServerResponse, requestId: string, params: GraphQLParams) {
    this.req = req;
    this.res = res;
    this.requestId = requestId;
    this.params = params;
  }

  /** Hardly anybody asks. */
  get gone(): AbortSignal {
    return goneOf(this.res);
  }
}

/** Whether Yoga would take the parameters as they are: nothing is among them that it would have to refuse. */
function isPlain(params: Readonly<Record<string, unknown>>, persisted: Persisted | null): boolean {
  for (const name in params) {
    const value = params[name];
    if (value == null || name === 'query') continue;
    if (name === 'variables' || name === 'extensions') {
      if (typeof value !== 'object' || Array.isArray(value)) return false;
    } else if (name === 'operationName') {
      if (typeof value !== 'string') return false;
    } else if (name !== 'documentId' || !persisted) return false;
  }
  return true;
}

/** Whether it names one operation, whose answer is one. */
function isAnswered(document: DocumentNode, operationName: unknown): boolean {
  const operation = getOperationAST(document, operationName as string | null | undefined);
  return operation != null && operation.operation !== OperationTypeNode.SUBSCRIPTION;
}

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

const answerOf = (result: unknown, mediaType: MediaType): Answer =>
  processRegularResult(result as ExecutionResult, plain, mediaType) as unknown as Answer;

/** What was thrown before there was an operation: one error, or the several that it says it is. */
function maskAll(error: unknown, requestId: string, log: Logger): ReturnType<typeof maskError>[] {
  return error instanceof AggregateError
    ? error.errors.flatMap((one) => maskAll(one, requestId, log))
    : [maskError(error, requestId, log)];
}

/** As Yoga compares it, to the letter. */
const isJson = (type: string | undefined): boolean =>
  type === 'application/json' || (type?.startsWith('application/json;') ?? false);

function parsed(text: string): Record<string, unknown> | null {
  try {
    return JSON.parse(text) as Record<string, unknown> | null;
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
