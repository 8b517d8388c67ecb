import { getVariableValues, type ExecutionArgs, type ExecutionResult, type GraphQLSchema } from 'graphql';
import type { Plugin } from 'graphql-yoga';
import type { App } from '../app.ts';
import { accessOf, admit, rootFieldsOf } from '../graphql/access.ts';
import type { Context } from '../graphql/context.ts';
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
      const operation = plans.operation(args.document, args.operationName);
      if (!operation) return;
      setExecuteFn(async (given: ExecutionArgs) => {
        const context: Context = given.contextValue;
        const { coerced: variables } = getVariableValues(
          schema,
          operation.node.variableDefinitions ?? [],
          given.variableValues ?? {},
        );
        const plan = variables && isAdmitted(given, context) ? plans.plan(operation, variables) : null;
        const data = plan && variables ? await run(app, plan, { actor: context.actor, variables }) : null;
        app.metrics.graphqlCompiled.inc({
          outcome: plan === null ? 'ordinary' : data === null ? 'refused' : 'compiled',
        });
        return data === null ? (executeFn(given) as unknown) : answer(data);
      });
    },
  };
}

/** Whether the actor may ask for what stands at the root; who may not is told so in the ordinary way. */
function isAdmitted({ schema, document, operationName }: ExecutionArgs, { actor }: Context): boolean {
  try {
    for (const field of rootFieldsOf(schema, document, operationName))
      admit(actor, accessOf(field), { kind: 'Query', name: field.name });
    return true;
  } catch {
    return false;
  }
}

/** The text of `data`; null where the ordinary way has to tell it. */
async function run(app: App, { name, text, parameters }: Plan, asked: Asked): Promise<string | null> {
  const values = parameters.map((one) => one(asked));
  const { rows } = await app.database.pool.query<[string | null]>({
    ...(name === undefined ? {} : { name }),
    text,
    values,
    rowMode: 'array',
  });
  const data = rows[0]?.[0] ?? null;
  return data === null ? null : finished(data);
}
