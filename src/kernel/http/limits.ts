import { createComplexityRule } from '@pothos/plugin-complexity';
import {
  GraphQLError,
  Kind,
  parse,
  validate,
  type ASTNode,
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
  /** Sum of field weights; a list's items weigh ten-fold, those of a connection `first`-fold. */
  readonly cost: number;
  /** Lexical tokens of the document. */
  readonly tokens: number;
}

const tooMuch = (message: string, code: string, extensions: object) =>
  new GraphQLError(message, { extensions: { code, ...extensions, http: { status: 400, spec: true } } });

/** Refuses operations that are too large before anything of them is executed, on every transport. */
export function operationLimits(limits: OperationLimits): Plugin<Context> {
  const aliasRule = (context: ValidationContext): ASTVisitor => {
    let aliases = 0;
    let schemas = 0;
    return {
      Field(node) {
        if (node.alias) aliases++;
        if (node.name.value === '__schema' || node.name.value === '__type') schemas++;
      },
      Document: {
        leave() {
          if (schemas > maxIntrospections) {
            context.reportError(
              tooMuch(`The document asks ${schemas} times for the schema.`, 'TOO_COSTLY', { limit: maxIntrospections }),
            );
          }
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
      setParseFn((source: string, options: object) => {
        // Parsed documents are kept: comments and long texts are no tokens, but they are memory.
        if (source.length > maxDocumentLength) {
          throw tooMuch(`The document has more than ${maxDocumentLength} characters.`, 'DOCUMENT_TOO_LARGE', {
            limit: maxDocumentLength,
          });
        }
        return parseWithin(source, options, limits.tokens);
      });
    },
    onValidate({ addValidationRule }) {
      addValidationRule(aliasRule);
      addValidationRule(textRule);
    },
    onExecute({ args, setResultAndStopExecution }) {
      const errors = refusals(limits, args);
      if (errors.length > 0) setResultAndStopExecution({ errors });
    },
    onSubscribe({ args, setResultAndStopExecution }) {
      const errors = refusals(limits, args);
      if (errors.length > 0) setResultAndStopExecution({ errors });
    },
  };
}

/** Longest document, characters; the densest one within the default token limit has about half. */
const maxDocumentLength = 32_768;
/** The schema's description has no cost of its own: so often it may be asked for. */
const maxIntrospections = 2;
/** Levels of lists and objects in the variables. */
const maxVariableDepth = 32;
/** Values in the variables, at all levels. */
const maxVariableValues = 5000;

function parseWithin(source: string, options: object, maxTokens: number): DocumentNode {
  try {
    return parse(source, { ...options, maxTokens });
  } catch (error) {
    if (!(error instanceof GraphQLError)) throw error;
    const tokens = error.message.includes('tokens. Parsing aborted');
    throw new GraphQLError(error.message, {
      source: error.source,
      positions: error.positions,
      extensions: tokens ? { code: 'TOO_MANY_TOKENS', limit: maxTokens } : { code: 'GRAPHQL_PARSE_FAILED' },
    });
  }
}

/** PostgreSQL's text holds neither U+0000 nor half a surrogate pair. */
const isStorable = (text: string): boolean => !text.includes('\0') && text.isWellFormed();

const unstorable = (nodes?: ASTNode) =>
  new GraphQLError('Text must be well-formed Unicode without U+0000.', {
    ...(nodes ? { nodes } : {}),
    extensions: { code: 'BAD_USER_INPUT' },
  });

const textRule = (context: ValidationContext): ASTVisitor => ({
  StringValue(node) {
    if (!isStorable(node.value)) context.reportError(unstorable(node));
  },
});

function refusals(limits: OperationLimits, args: Args): readonly GraphQLError[] {
  const variables = refuseVariables(args.variableValues);
  return variables ? [variables] : measure(limits, args);
}

/** Looks at variables before anything recurses into them. */
function refuseVariables(variables: unknown): GraphQLError | null {
  let level: unknown[] = [variables];
  let values = 0;
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > maxVariableDepth + 1) {
      return tooMuch(`The variables have more than ${maxVariableDepth} levels.`, 'VARIABLES_TOO_DEEP', {
        limit: maxVariableDepth,
      });
    }
    const next: unknown[] = [];
    for (const value of level) {
      if (++values > maxVariableValues) {
        return tooMuch(`The variables have more than ${maxVariableValues} values.`, 'TOO_MANY_VALUES', {
          limit: maxVariableValues,
        });
      }
      if (typeof value === 'string' && !isStorable(value)) return unstorable();
      if (typeof value !== 'object' || value === null) continue;
      if (!Array.isArray(value) && !Object.keys(value).every(isStorable)) return unstorable();
      for (const part of Object.values(value)) next.push(part);
    }
    level = next;
  }
  return null;
}

type Args = Parameters<NonNullable<Plugin['onExecute']>>[0]['args'];

/** The cost depends on variables (`first: $n`), so it is looked at with them, after validation. */
function measure(limits: OperationLimits, args: Args): readonly GraphQLError[] {
  // The rules for introspection bound it, and it is switched off where it is not wanted.
  if (asksOnlyForSchema(args)) return [];
  const rule = createComplexityRule({
    context: args.contextValue ?? {},
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
  try {
    return validate(args.schema, args.document, [rule]);
  } catch (error) {
    // The arguments that the cost depends on are looked at by the way.
    if (error instanceof GraphQLError) return [error];
    throw error;
  }
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
