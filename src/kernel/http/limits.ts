import { createComplexityRule } from '@pothos/plugin-complexity';
import {
  getOperationAST,
  GraphQLError,
  Kind,
  parse,
  validate,
  visit,
  type ASTNode,
  type ASTVisitor,
  type DocumentNode,
  type SelectionNode,
  type SelectionSetNode,
  type ValidationContext,
} from 'graphql';
import type { Plugin } from 'graphql-yoga';
import { rootNamesOf } from '../graphql/access.ts';
import { isPageCursor } from '../graphql/builder.ts';
import type { Context } from '../graphql/context.ts';
import { variableNames } from './names.ts';

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

/** Refuses documents that are too large before anything of them is executed, on every transport. */
export function documentLimits(limits: OperationLimits): Plugin<Context> {
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
    onValidate({ addValidationRule, setValidationFn }) {
      setValidationFn((schema, document, rules, typeInfo, validationOptions) => {
        const crowded = refuseNamesakes(document);
        // Each error names parts of the document, and guesses what was meant: a few tell enough.
        return crowded ? [crowded] : validate(schema, document, rules, { ...validationOptions, maxErrors }, typeInfo);
      });
      addValidationRule(aliasRule);
      addValidationRule(introspectionRule);
      addValidationRule(textRule);
      addValidationRule(variableNames);
    },
  };
}

/** What reading a document costs, points: one for each 100 characters. What is too long is not read. */
export const readingCost = (source: string): number =>
  Math.max(1, Math.ceil(Math.min(source.length, maxDocumentLength) / 100));

/**
 * Refuses what takes long to validate. Whether fields of one name can be merged is found out by comparing each with each
 * other, at every level and through every fragment, in the square of their number; all else takes time in proportion to
 * the tokens. So the pairs are counted, which takes one walk, of fields with one name in the answer and of spreads: 200
 * fields of one name, or ten times 60.
 */
function refuseNamesakes(document: DocumentNode): GraphQLError | null {
  const counts = new Map<string, number>();
  let pairs = 0;
  const count = (name: string) => {
    const before = counts.get(name) ?? 0;
    pairs += before;
    counts.set(name, before + 1);
  };
  visit(document, {
    Field: ({ alias, name }) => count((alias ?? name).value),
    FragmentSpread: () => count('...'),
  });
  if (pairs <= maxNamesakes) return null;
  return tooMuch('The document has too many fields of the same name, or fragment spreads.', 'TOO_MANY_FIELDS', {
    limit: maxNamesakes,
  });
}

/**
 * Bounds what a document asks of the schema's description, whose fields have no cost of their own: the standard query
 * of graphql-js, GraphiQL and code generators passes, and nothing much larger.
 */
const introspectionRule = (context: ValidationContext): ASTVisitor => {
  let asked = 0;
  let whole = 0;
  const shapes = new Map<string, Shape>();
  const shapeOf = ({ selections }: SelectionSetNode): Shape =>
    selections.map((selection) => shapeOfOne(selection)).reduce(larger, flat);
  const shapeOfOne = (selection: SelectionNode): Shape => {
    if (selection.kind === Kind.INLINE_FRAGMENT) return shapeOf(selection.selectionSet);
    if (selection.kind === Kind.FIELD) {
      const inner = selection.selectionSet ? shapeOf(selection.selectionSet) : flat;
      return {
        alias: inner.alias || selection.alias !== undefined,
        lists: inner.lists + Number(introspectionLists.has(selection.name.value)),
        wrappers: inner.wrappers + Number(selection.name.value === 'ofType'),
      };
    }
    const name = selection.name.value;
    const known = shapes.get(name);
    if (known) return known;
    // For a fragment that contains itself, which another rule refuses.
    shapes.set(name, flat);
    const fragment = context.getFragment(name);
    const shape = fragment ? shapeOf(fragment.selectionSet) : flat;
    shapes.set(name, shape);
    return shape;
  };
  return {
    Field(node) {
      const name = node.name.value;
      if (name !== '__schema' && name !== '__type') return;
      asked++;
      if (name === '__schema') whole++;
      const { alias, lists, wrappers } = node.selectionSet ? shapeOf(node.selectionSet) : flat;
      const most = name === '__schema' ? 1 : 2;
      if (alias)
        context.reportError(tooMuch(`Below ${name} no aliases are allowed.`, 'TOO_MANY_ALIASES', { limit: 0 }));
      if (lists > most)
        context.reportError(tooMuch(`Below ${name} lists nest ${most} deep at most.`, 'TOO_DEEP', { limit: most }));
      if (wrappers > maxWrappers)
        context.reportError(
          tooMuch(`\`ofType\` nests ${maxWrappers} deep at most.`, 'TOO_DEEP', { limit: maxWrappers }),
        );
    },
    Document: {
      leave() {
        if (asked <= maxIntrospections && whole <= 1) return;
        context.reportError(
          tooMuch(`The document asks ${asked} times for the schema.`, 'TOO_COSTLY', { limit: maxIntrospections }),
        );
      },
    },
  };
};

/** The lists of a type. `args` are not among them: they lie in `fields`, and are few. */
const introspectionLists = new Set(['fields', 'interfaces', 'possibleTypes', 'enumValues', 'inputFields']);
/** The standard query has nine. */
const maxWrappers = 10;

/** What is in a selection, at its deepest. */
interface Shape {
  readonly alias: boolean;
  readonly lists: number;
  readonly wrappers: number;
}
const flat: Shape = { alias: false, lists: 0, wrappers: 0 };
const larger = (a: Shape, b: Shape): Shape => ({
  alias: a.alias || b.alias,
  lists: Math.max(a.lists, b.lists),
  wrappers: Math.max(a.wrappers, b.wrappers),
});

/** Longest document, characters; the densest one within the default token limit has about half. */
const maxDocumentLength = 32_768;
/** Errors of validation that are told. */
const maxErrors = 10;
/** Pairs of fields with one name in the answer, and of fragment spreads. */
const maxNamesakes = 20_000;
/** `__schema`, once, and `__type` in one document. */
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

/** Looks at variables before anything recurses into them. */
export function refuseVariables(variables: unknown): GraphQLError | null {
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

/** Text that the variables of a subscription may have, characters: they are held for as long as the stream. */
const maxStreamVariables = 16_384;

/** Looks at the variables of a subscription. */
export function refuseLargeVariables(variables: unknown): GraphQLError | null {
  // Those that are too deep or too many are refused for that.
  if (refuseVariables(variables) !== null || (JSON.stringify(variables ?? {}) ?? '').length <= maxStreamVariables)
    return null;
  const message = `The variables of a subscription have more than ${maxStreamVariables} characters.`;
  return tooMuch(message, 'VARIABLES_TOO_LARGE', { limit: maxStreamVariables });
}

/** Values that may stand beside the variables of an operation: its own members and `extensions`. */
const valuesBeside = 100;

/**
 * Whether a text of JSON has more values than so many operations may have. It is asked before the text is parsed: a
 * megabyte of empty objects is twenty as values, and many requests wait at once, each with its own.
 */
export function hasTooManyValues(json: string, operations: number): boolean {
  // Each is after a comma or a bracket, and may begin with one.
  let left = 2 * operations * (maxVariableValues + valuesBeside);
  if (json.length <= left) return false;
  for (let at = 0; at < json.length; at++) {
    const code = json.charCodeAt(at);
    if (code === quote) {
      // To its end, over what is escaped; a text that has none is no JSON.
      do {
        at = json.indexOf('"', at + 1);
        if (at < 0) return false;
      } while (isEscaped(json, at));
    } else if ((code === comma || code === bracket || code === brace) && --left < 0) return true;
  }
  return false;
}

const [quote, comma, bracket, brace, backslash] = Array.from('",[{\\', (one) => one.charCodeAt(0));

function isEscaped(json: string, at: number): boolean {
  let before = at;
  while (json.charCodeAt(before - 1) === backslash) before--;
  return (at - before) % 2 === 1;
}

/** The refusal of such a text. */
export const manyValues = (): GraphQLError =>
  tooMuch(`The request has more than ${maxVariableValues} values an operation.`, 'TOO_MANY_VALUES', {
    limit: maxVariableValues,
  });

/** An operation that is about to be executed. */
export type Args = Parameters<NonNullable<Plugin['onExecute']>>[0]['args'];

/** What an operation costs, and why it is not executed. */
export interface Measured {
  readonly cost: number;
  readonly errors: readonly GraphQLError[];
  /** Whether it asks for the schema's description. */
  readonly introspects: boolean;
}

/** What each look at the schema's description costs: it is as large as an answer of so many fields. */
const introspectionCost = 1000;

/** Measurements of one document that are kept: there are few sizes of pages. */
const maxMeasured = 32;
/** Longest text of variables that a measurement is kept for, characters. */
const maxVariablesKey = 256;

/**
 * Measures operations, those of a document that is known and good once for each size of pages.
 * The cost depends on variables (`first: $n`), so it is looked at with them, after validation.
 */
export function measuring(limits: OperationLimits): (args: Args) => Measured {
  const kept = new WeakMap<DocumentNode, Map<string, Measured>>();
  return (args) => {
    const key = keyOf(args);
    if (key === null) return measure(limits, args);
    let known = kept.get(args.document);
    const found = known?.get(key);
    if (found) return found;
    const measured = measure(limits, args);
    if (measured.errors.length === 0) {
      if (!known || known.size >= maxMeasured) kept.set(args.document, (known = new Map()));
      known.set(key, measured);
    }
    return measured;
  };
}

/**
 * What the measurement of an operation depends on: which one of the document's it is, and its variables. Of ids and texts
 * only that they are there, which costs the same whatever they say, and whether a text is empty or a page's cursor, which
 * others are refused as. Null: it is not kept, such as with lists and objects.
 */
function keyOf({ document, operationName, variableValues }: Args): string | null {
  const operation = getOperationAST(document, operationName);
  if (!operation) return null;
  const given = (variableValues ?? {}) as Readonly<Record<string, unknown>>;
  let key = operation.name?.value ?? '';
  for (const { variable, type } of operation.variableDefinitions ?? []) {
    const name = variable.name.value;
    const value = Object.hasOwn(given, name) ? given[name] : undefined;
    const named = type.kind === Kind.NON_NULL_TYPE ? type.type : type;
    if (typeof value === 'string') {
      const typename = named.kind === Kind.NAMED_TYPE ? named.name.value : null;
      if (typename === 'ID') key += ' id';
      else if (typename === 'String') key += value === '' ? ' empty' : isPageCursor(value) ? ' cursor' : ' text';
      else if (value.length > maxVariablesKey) return null;
      else key += ` ${JSON.stringify(value)}`;
    } else if (typeof value === 'number' || typeof value === 'boolean') key += ` ${value}`;
    else if (value === null || value === undefined) key += value === null ? ' null' : ' none';
    else return null;
    if (key.length > maxVariablesKey) return null;
  }
  return key;
}

export function measure(limits: OperationLimits, args: Args): Measured {
  const names = rootNamesOf(args.document, args.operationName);
  const asked = names.filter((name) => name === '__schema' || name === '__type').length;
  const introspects = asked > 0;
  // The rules for introspection bound its form, and it is switched off where it is not wanted.
  if (names.every((name) => name.startsWith('__')))
    return { cost: Math.max(1, asked * introspectionCost), errors: [], introspects };
  let cost = 1;
  const rule = createComplexityRule({
    context: args.contextValue ?? {},
    variableValues: args.variableValues ?? {},
    operationName: args.operationName ?? null,
    validate({ complexity, depth }, report) {
      cost = Math.max(1, Math.ceil(complexity));
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
    const errors = validate(args.schema, args.document, [rule]);
    return { cost: cost + asked * introspectionCost, errors, introspects };
  } catch (error) {
    // The arguments that the cost depends on are looked at by the way.
    if (error instanceof GraphQLError) return { cost, errors: [error], introspects };
    throw error;
  }
}
