import type { IncomingMessage } from 'node:http';
import { GraphQLError } from 'graphql';
import type { Plugin } from 'graphql-yoga';
import { andThen } from '../and-then.ts';
import type { App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { RateLimited, Unauthenticated } from '../errors.ts';
import { isPublic, accessOf, rootFieldsOf } from '../graphql/access.ts';
import { confirm, type Context } from '../graphql/context.ts';
import { clientOf, keysOf, keysShare } from '../rates/address.ts';
import { Budgets, windowS, type Rate } from '../rates/budgets.ts';
import type { Connections } from './connections.ts';
import type { Documents } from './documents.ts';
import { laneOf, Lanes } from './lanes.ts';
import {
  measuring,
  readingCost,
  refuseLargeVariables,
  refuseVariables,
  type Args,
  type Measured,
  type OperationLimits,
} from './limits.ts';
import type { ServerContext } from './yoga.ts';

export interface AdmissionOptions {
  readonly app: App;
  readonly limits: OperationLimits;
  /** Open streams by client. */
  readonly connections: Connections;
  /** Documents that need no reading any more. */
  readonly documents: Documents;
}

/** Who sends a document. */
export interface Sender {
  readonly clientAddress: string;
  readonly actor: () => Promise<Actor>;
}

export interface Admission {
  readonly plugin: Plugin<Context>;
  /** Executes a query or mutation in its lane, unless it is refused. */
  execute(args: Args, work: () => unknown): unknown;
  /**
   * To be asked before a document is parsed: takes what reading it costs, unless it is known.
   * @throws {RateLimited} when the client's budget has less left
   */
  document(context: ServerContext, source: string, sender: Sender): void | Promise<void>;
}

/**
 * The last gate before an operation is executed, on every transport: variables, access, cost, the client's budget, and
 * a place for a stream. An operation costs at least what reading its document costs, also when it is refused for itself.
 *
 * Reading is a gate of its own, before it: parsing and validating are most of the work on a document that is refused.
 */
export function admission(options: AdmissionOptions): Admission {
  const introspected = new WeakSet<IncomingMessage>();
  const budgets = options.app.use(Budgets);
  const lanes = new Lanes();
  const measure = measuring(options.limits);

  const refusals = (args: Args): readonly GraphQLError[] | Promise<readonly GraphQLError[]> => {
    const context = args.contextValue as unknown as Context & ServerContext;
    const measured = look(measure, args, context);
    const once = measured.introspects && context.req ? alreadyAsked(context.req) : [];
    const errors = [...measured.errors, ...once];
    const read = readingCost((context as unknown as Asked).params?.query ?? '');
    const cost = errors.length > 0 ? read : Math.max(read, measured.cost);
    return andThen(owed(context, cost), (rate) => {
      context.rate = rate;
      tell(context, rate);
      return rate.allowed ? errors : [refused(new RateLimited(rate.resetAt, tooFast(rate)))];
    });
  };

  /** Takes a cost, less what reading took already. */
  const owed = (context: Context & ServerContext, cost: number): Rate | Promise<Rate> => {
    const { reading, actor, clientAddress } = context;
    if (!reading) return spend(actor, clientAddress ?? '', cost);
    const left = cost - reading.cost;
    return left <= 0 ? reading : andThen(spend(actor, clientAddress ?? '', left), (rate) => ({ ...rate, cost }));
  };

  /** From the client's budget, and from what all keys of one maker have together; tells of the scarcer one. */
  const spend = (actor: Actor, clientAddress: string, cost: number): Rate | Promise<Rate> =>
    andThen(budgets.spend(clientOf(actor, clientAddress), actor.kind === 'ANONYMOUS', cost), (own) => {
      const keys = keysOf(actor);
      if (!own.allowed || keys === null) return own;
      return andThen(budgets.spend(keys, false, cost, keysShare), (shared) =>
        shared.allowed && own.remaining <= shared.remaining ? own : shared,
      );
    });

  /** A batch asks once for the schema: its description is large. */
  const alreadyAsked = (req: IncomingMessage): GraphQLError[] => {
    if (introspected.has(req)) {
      const message = 'One operation of a batch may ask for the schema.';
      return [
        new GraphQLError(message, { extensions: { code: 'TOO_COSTLY', limit: 1, http: { status: 400, spec: true } } }),
      ];
    }
    introspected.add(req);
    return [];
  };

  const plugin: Plugin<Context> = {
    async onSubscribe({ args, setResultAndStopExecution }) {
      await confirm(args.contextValue);
      const large = refuseLargeVariables(args.variableValues);
      const errors = [...(large ? [large] : []), ...(await refusals(args))];
      if (errors.length > 0) return setResultAndStopExecution({ errors });
      const { actor, clientAddress, res } = args.contextValue as unknown as Context & ServerContext;
      // On a WebSocket the connection has a place already.
      if (!res) return undefined;
      const release = options.connections.take(clientOf(actor, clientAddress ?? ''), keysOf(actor));
      if (!release) {
        const message = 'You have too many open streams.';
        const http = { status: 429, headers: { 'Retry-After': '5' } };
        return setResultAndStopExecution({
          errors: [new GraphQLError(message, { extensions: { code: 'TOO_MANY_CONNECTIONS', http } })],
        });
      }
      // The client may be gone already: then nothing would tell of it again.
      if (res.closed || res.destroyed) release();
      else res.once('close', release);
      return undefined;
    },
  };

  return {
    plugin,
    execute: (args, work) =>
      andThen(refusals(args), (errors) =>
        errors.length > 0 ? { errors } : lanes.run(laneOf((args.contextValue as unknown as Context).actor), work),
      ),
    document: (context, source, sender) =>
      options.documents.has(source) ? undefined : readDocument(context, source, sender),
  };

  async function readDocument(context: ServerContext, source: string, { clientAddress, actor }: Sender): Promise<void> {
    const rate = await spend(await actor(), clientAddress, readingCost(source));
    tell(context, rate);
    if (!rate.allowed) throw new RateLimited(rate.resetAt, tooFast(rate));
    context.reading = rate;
  }
}

/** What every transport tells of a request beside the context. */
interface Asked {
  readonly params?: { readonly query?: string | null };
}

/** Looks at the operation itself, before anything recurses into its variables. */
function look(measure: (args: Args) => Measured, args: Args, { actor }: Context): Measured {
  const variables = refuseVariables(args.variableValues);
  if (variables) return { cost: 1, errors: [variables], introspects: false };
  if (actor.kind === 'ANONYMOUS') {
    const fields = rootFieldsOf(args.schema, args.document, args.operationName);
    if (!fields.every((field) => isPublic(accessOf(field))))
      return { cost: 1, errors: [refused(new Unauthenticated())], introspects: false };
  }
  return measure(args);
}

const refused = (error: Error): GraphQLError => new GraphQLError(error.message, { originalError: error });

const tooFast = ({ cost, remaining, limit }: Rate): string =>
  `The operation costs ${cost} points, and ${remaining} of your ${limit} are left.`;

/**
 * What is left of the budget, in the answer's headers. Of a batch: after its last operation.
 * @see https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-10
 */
function tell({ res, told }: ServerContext, rate: Rate): void {
  if (!res || told || res.headersSent) return;
  const [policy, state] = rateHeaders(rate);
  res.setHeader('ratelimit-policy', policy);
  res.setHeader('ratelimit', state);
}

/** Values of `RateLimit-Policy` and `RateLimit`. */
export function rateHeaders({ limit, remaining, resetAt }: Rate): readonly [policy: string, state: string] {
  const seconds = Math.max(0, Math.ceil((resetAt.getTime() - Date.now()) / 1000));
  return [`"points";q=${limit};w=${windowS}`, `"points";r=${remaining};t=${seconds}`];
}
