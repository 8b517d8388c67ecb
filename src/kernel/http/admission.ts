import type { IncomingMessage } from 'node:http';
import { GraphQLError } from 'graphql';
import type { Plugin } from 'graphql-yoga';
import type { App } from '../app.ts';
import { RateLimited, Unauthenticated } from '../errors.ts';
import { isPublic, accessOf, rootFieldsOf } from '../graphql/access.ts';
import type { Context } from '../graphql/context.ts';
import { clientOf } from '../rates/address.ts';
import { Budgets, windowS, type Rate } from '../rates/budgets.ts';
import type { Connections } from './connections.ts';
import { measure, refuseVariables, type Args, type Measured, type OperationLimits } from './limits.ts';
import type { ServerContext } from './yoga.ts';

export interface AdmissionOptions {
  readonly app: App;
  readonly limits: OperationLimits;
  /** Open streams by client. */
  readonly connections: Connections;
}

/**
 * The last gate before an operation is executed, on every transport: variables, access, cost, the client's budget, and
 * a place for a stream. An operation that is refused for itself costs one point.
 */
export function admission(options: AdmissionOptions): Plugin<Context> {
  const introspected = new WeakSet<IncomingMessage>();
  const budgets = options.app.use(Budgets);

  const refusals = async (args: Args): Promise<readonly GraphQLError[]> => {
    const context = args.contextValue as unknown as Context & ServerContext;
    const measured = look(options.limits, args, context);
    const once = measured.introspects && context.req ? alreadyAsked(context.req) : [];
    const errors = [...measured.errors, ...once];
    const client = clientOf(context.actor, context.clientAddress ?? '');
    const cost = errors.length > 0 ? 1 : measured.cost;
    const rate = await budgets.spend(client, context.actor.kind === 'ANONYMOUS', cost);
    context.rate = rate;
    tell(context, rate);
    return rate.allowed ? errors : [refused(new RateLimited(rate.resetAt, tooFast(rate)))];
  };

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

  return {
    async onExecute({ args, setResultAndStopExecution }) {
      const errors = await refusals(args);
      if (errors.length > 0) setResultAndStopExecution({ errors });
    },
    async onSubscribe({ args, setResultAndStopExecution }) {
      const errors = await refusals(args);
      if (errors.length > 0) return setResultAndStopExecution({ errors });
      const { actor, clientAddress, res } = args.contextValue as unknown as Context & ServerContext;
      // On a WebSocket the connection has a place already.
      if (!res) return undefined;
      const release = options.connections.take(clientOf(actor, clientAddress ?? ''));
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
}

/** Looks at the operation itself, before anything recurses into its variables. */
function look(limits: OperationLimits, args: Args, { actor }: Context): Measured {
  const variables = refuseVariables(args.variableValues);
  if (variables) return { cost: 1, errors: [variables], introspects: false };
  if (actor.kind === 'ANONYMOUS') {
    const fields = rootFieldsOf(args.schema, args.document, args.operationName);
    if (!fields.every((field) => isPublic(accessOf(field))))
      return { cost: 1, errors: [refused(new Unauthenticated())], introspects: false };
  }
  return measure(limits, args);
}

const refused = (error: Error): GraphQLError => new GraphQLError(error.message, { originalError: error });

const tooFast = ({ cost, remaining, limit }: Rate): string =>
  `The operation costs ${cost} points, and ${remaining} of your ${limit} are left.`;

/**
 * What is left of the budget, in the answer's headers. Of a batch: after its last operation.
 * @see https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-10
 */
function tell({ res }: ServerContext, { limit, remaining, resetAt }: Rate): void {
  if (!res || res.headersSent) return;
  const seconds = Math.max(0, Math.ceil((resetAt.getTime() - Date.now()) / 1000));
  res.setHeader('ratelimit-policy', `"points";q=${limit};w=${windowS}`);
  res.setHeader('ratelimit', `"points";r=${remaining};t=${seconds}`);
}
