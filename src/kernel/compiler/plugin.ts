import {
  getVariableValues,
  GraphQLBoolean,
  GraphQLError,
  GraphQLID,
  GraphQLInt,
  GraphQLString,
  Kind,
  type ExecutionArgs,
  type ExecutionResult,
  type GraphQLSchema,
  type GraphQLType,
  type OperationDefinitionNode,
} from 'graphql';
import type { Plugin } from 'graphql-yoga';
import { DatabaseError } from 'pg';
import { andThen } from '../and-then.ts';
import type { App } from '../app.ts';
import type { Row, SqlValue } from '../db/batch.ts';
import { tookTooLong } from '../db/late.ts';
import { accessOf, admit, rootFieldsOf } from '../graphql/access.ts';
import { confirm, type Context } from '../graphql/context.ts';
import { finished } from './json.ts';
import { modelsOf } from './models.ts';
import { Plans, type Plan } from './plans.ts';
import type { Asked } from './where.ts';

/** An operation's answer as its text; whoever wants to look into it has it parsed. */
const answer = (data: string): ExecutionResult & { readonly stringify: () => string } => ({
  get data() {
    return JSON.parse(data) as Record<string, unknown>;
  },
  stringify: () => `{"data":${data}}`,
});

/**
 * Executes queries whose fields are all columns, relations, pages and counts as one statement that answers their text,
 * and leaves all others as they are, also where a statement comes upon what is an error. What is wrapped around
 * execution, by plugins after this one, is around both.
 */
export function compiled({ app, schema }: { readonly app: App; readonly schema: GraphQLSchema }): Plugin<Context> {
  const plans = new Plans({ schema, models: modelsOf(app.db), named: !app.database.pooled });
  return {
    onExecute({ args, executeFn, setExecuteFn }) {
      /** With the rights of now: a compiled statement makes sure of them by itself. */
      const ordinary = (given: ExecutionArgs): unknown =>
        andThen(confirm(given.contextValue as Context), () => executeFn(given) as unknown);
      const operation = plans.operation(args.document, args.operationName);
      if (!operation) return setExecuteFn(ordinary);
      return setExecuteFn((given: ExecutionArgs) => {
        const { actor } = given.contextValue as Context;
        const variables = operation.isOrdinary
          ? undefined
          : coerced(schema, operation.node, given.variableValues ?? {});
        const plan = variables && isAdmitted(given, actor) ? plans.plan(operation, variables) : null;
        const finish = (found: Told): unknown => {
          app.metrics.graphqlCompiled.of(found.outcome).inc();
          return found.outcome === 'compiled' ? answer(found.data) : ordinary(given);
        };
        const values = plan && variables ? valuesOf(plan, { actor, variables }) : null;
        if (!plan || !values) return finish({ outcome: 'ordinary' });
        const { name, text, isShort } = plan;
        // Whatever it fails with, the ordinary way tells it as it always does; a fault of the compiler nobody has to suffer from.
        return app.database.reader.read({ name, text, values, isShort }).then(
          (rows) => finish(told(rows[0])),
          (error: unknown) => {
            tellFault(app, error, text);
            app.metrics.graphqlCompiled.of('failed').inc();
            if (!tookTooLong(error)) return ordinary(given);
            // What takes too long as one statement does not become quicker as many.
            return { errors: [new GraphQLError('A statement took too long.', { originalError: error as Error })] };
          },
        );
      });
    },
  };
}

/** Scalars whose values are mostly taken as they are. */
const simple = new Map<GraphQLType | undefined, (value: unknown) => boolean>([
  [GraphQLID, (value) => typeof value === 'string'],
  [GraphQLString, (value) => typeof value === 'string'],
  [GraphQLBoolean, (value) => typeof value === 'boolean'],
  [GraphQLInt, (value) => typeof value === 'number' && (value | 0) === value],
]);

type Variables = Readonly<Record<string, unknown>>;

/** The values of the variables as graphql-js makes them, which is asked unless they are taken as they are; undefined: they are wrong. */
function coerced(schema: GraphQLSchema, node: OperationDefinitionNode, given: Variables): Variables | undefined {
  const definitions = node.variableDefinitions ?? [];
  const values: Record<string, unknown> = {};
  for (const { variable, type } of definitions) {
    const name = variable.name.value;
    const named = type.kind === Kind.NON_NULL_TYPE ? type.type : type;
    const fits = named.kind === Kind.NAMED_TYPE ? simple.get(schema.getType(named.name.value)) : undefined;
    const value = Object.hasOwn(given, name) ? given[name] : undefined;
    if (!fits?.(value)) return getVariableValues(schema, definitions, given).coerced;
    values[name] = value;
  }
  return values;
}

/** Whether the actor may ask for what stands at the root; who may not is told so in the ordinary way. */
function isAdmitted({ schema, document, operationName }: ExecutionArgs, actor: Asked['actor']): boolean {
  // Strangers see no row: for them no statement is needed.
  if (actor.kind === 'ANONYMOUS') return false;
  try {
    for (const field of rootFieldsOf(schema, document, operationName))
      admit(actor, accessOf(field), { kind: 'Query', name: field.name });
    return true;
  } catch {
    return false;
  }
}

/** `stale`: the actor's rights are others by now; `refused`: there is an error to be told. */
type Told =
  { readonly outcome: 'compiled'; readonly data: string } | { readonly outcome: 'ordinary' | 'stale' | 'refused' };

/** The text of `data`, or why the ordinary way has to tell it. */
function told([text, confirmed]: Row = []): Told {
  if (confirmed !== 't') return { outcome: 'stale' };
  const data = text == null ? null : finished(text);
  return data === null ? { outcome: 'refused' } : { outcome: 'compiled', data };
}

/** The values of a plan's parameters; null: one of them is for the ordinary way to refuse. */
function valuesOf({ parameters }: Plan, asked: Asked): SqlValue[] | null {
  try {
    return parameters.map((one) => (one(asked) ?? null) as SqlValue);
  } catch {
    return null;
  }
}

/** Logs what is a fault of the compiler. */
export function tellFault(app: App, error: unknown, statement: string): void {
  if (error instanceof DatabaseError && ofStatement.test(error.code ?? ''))
    app.log.error({ err: error, statement }, 'a compiled statement failed');
}

/** Errors of a statement, and not of the connection or the server. @see https://www.postgresql.org/docs/current/errcodes-appendix.html */
const ofStatement = /^(?:0A|21|22|42|54)/;
