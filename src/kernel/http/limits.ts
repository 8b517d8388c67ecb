import { createComplexityRule } from '@pothos/plugin-complexity';
import {
  GraphQLError,
  Kind,
  parse,
  validate,
  type ASTVisitor,
  type DocumentNode,
  type ValidationContext,
} from 'graphql';
import type { Plugin } from 'graphql-yoga';
import type { Context } from '../graphql/context.ts';

/** Bounds of one operation. */
export interface OperationLimits {
  /** Levels of fields. */
  readonly depth: number;
  /** Fields with an alias in the document. */
  readonly aliases: number;
  /** Sum of field weights; a list counts its items' weight ten-fold, or `first`-fold for a connection. */
  readonly cost: number;
  /** Lexical tokens of the document. */
  readonly tokens: number;
}

const tooMuch = (message: string, code: string, extensions: object) =>
  new GraphQLError(message, { extensions: { code, ...extensions } });

/** Refuses operations that are too large before anything of them is executed, on every transport. */
export function operationLimits(limits: OperationLimits): Plugin<Context> {
  const aliasRule = (context: ValidationContext): ASTVisitor => {
    let aliases = 0;
    return {
      Field(node) {
        if (node.alias) aliases++;
      },
      Document: {
        leave() {
          if (aliases <= limits.aliases) return;
          context.reportError(
            tooMuch(`The document has ${aliases} aliases; ${limits.aliases} are allowed.`, 'TOO_MANY_ALIASES', {
              limit: limits.aliases,
            }),
          );
        },
      },
    };
  };
  return {
    onParse({ setParseFn }) {
      setParseFn((source: string, options: object) => parse(source, { ...options, maxTokens: limits.tokens }));
    },
    onValidate({ addValidationRule }) {
      addValidationRule(aliasRule);
    },
    onExecute({ args, setResultAndStopExecution }) {
      const errors = measure(limits, args);
      if (errors.length > 0) setResultAndStopExecution({ errors });
    },
    onSubscribe({ args, setResultAndStopExecution }) {
      const errors = measure(limits, args);
      if (errors.length > 0) setResultAndStopExecution({ errors });
    },
  };
}

type Args = Parameters<NonNullable<Plugin['onExecute']>>[0]['args'];

/** The cost depends on variables (`first: $n`), so it is looked at with them, after validation. */
function measure(limits: OperationLimits, args: Args): readonly GraphQLError[] {
  // Introspection is bounded by its own schema and switched off where it is not wanted.
  if (asksOnlyForSchema(args)) return [];
  const rule = createComplexityRule({
    context: (args.contextValue ?? {}) as object,
    variableValues: args.variableValues ?? {},
    operationName: args.operationName ?? null,
    validate({ complexity, depth }, report) {
      if (depth > limits.depth) {
        report(
          tooMuch(`The operation is ${depth} levels deep; ${limits.depth} are allowed.`, 'TOO_DEEP', {
            limit: limits.depth,
          }),
        );
      }
      if (complexity > limits.cost) {
        report(
          tooMuch(`The operation costs ${complexity}; ${limits.cost} is allowed.`, 'TOO_COSTLY', {
            limit: limits.cost,
            cost: complexity,
          }),
        );
      }
    },
  });
  return validate(args.schema, args.document, [rule]);
}

function asksOnlyForSchema(args: Args): boolean {
  const document = args.document as DocumentNode;
  return document.definitions
    .filter((definition) => definition.kind === Kind.OPERATION_DEFINITION)
    .every((operation) =>
      operation.selectionSet.selections.every(
        (field) => field.kind === Kind.FIELD && field.name.value.startsWith('__'),
      ),
    );
}
