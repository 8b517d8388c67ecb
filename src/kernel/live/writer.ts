import {
  defaultFieldResolver,
  getArgumentValues,
  getNamedType,
  getOperationAST,
  getVariableValues,
  isAbstractType,
  isLeafType,
  isListType,
  isNonNullType,
  isObjectType,
  Kind,
  type ExecutionArgs,
  type FieldNode,
  type FragmentDefinitionNode,
  type GraphQLField,
  type GraphQLFieldResolver,
  type GraphQLObjectType,
  type GraphQLOutputType,
  type GraphQLResolveInfo,
} from 'graphql';
import { fieldsOf, first, selectionsOf, type Selections } from '../compiler/document.ts';
import { optionsOf } from '../compiler/types.ts';
import { isRefused, pagesOf } from '../compiler/plans.ts';
import type { Readers, RowTexts } from '../compiler/row-texts.ts';
import type { Context } from '../graphql/context.ts';

/**
 * The answer to one event as JSON text, `{"data":…}`, at once where no row is in it; null where the ordinary execution
 * has to give it: for whatever is neither at hand nor a row of a statement, or goes wrong.
 * @param readers who is told the rows
 */
export type Writer = (item: unknown, context: Context, readers: Readers) => string | Promise<string | null> | null;

/** Stands in a text for a row that is being looked up: JSON has no control characters. */
const hole = '\u0000';

/** Ends an attempt: the ordinary execution will tell what there is to tell. */
class Elsewhere extends Error {}
const elsewhere = (): never => {
  throw new Elsewhere();
};
/** Something comes later, as it would the next time. */
class Later extends Elsewhere {}

/** Text of a value, as `JSON.stringify` of what GraphQL makes of it. */
type Complete = (value: unknown, context: Context) => string;

/**
 * Writes answers of a subscription whose fields are at hand, such as an event's own, without building them first:
 * fields and arguments are looked up once, keys are quoted once. Rows that a field tells the id of are left to a statement,
 * and nothing else waits. It does what the ordinary execution would, and gives up at anything else.
 * @see https://spec.graphql.org/October2021/#sec-Executing-Selection-Sets
 */
export function writerOf(args: ExecutionArgs, rows: RowTexts): Writer | null {
  const { schema, document } = args;
  const operation = getOperationAST(document, args.operationName);
  const root = schema.getSubscriptionType();
  if (!operation || !root) return null;
  const given = getVariableValues(schema, operation.variableDefinitions ?? [], args.variableValues ?? {});
  if (!given.coerced) return null;
  const variableValues = given.coerced;
  /** Asks for a row that the answer being written waits for, and tells what stands in its place until then. */
  let look: (text: Parameters<RowTexts['load']>[0], id: string) => string = elsewhere;
  const fragments = new Map<string, FragmentDefinitionNode>();
  for (const one of document.definitions) if (one.kind === Kind.FRAGMENT_DEFINITION) fragments.set(one.name.value, one);
  const source = { schema, fragments, variables: variableValues };

  const completing = (
    type: GraphQLOutputType,
    nodes: readonly FieldNode[],
    info: GraphQLResolveInfo,
  ): Complete | null => {
    if (isNonNullType(type)) {
      const inner = completing(type.ofType, nodes, info);
      return inner && ((value, context) => (value == null ? elsewhere() : inner(value, context)));
    }
    if (isLeafType(type)) {
      return (value) => {
        if (value == null) return 'null';
        if (typeof value === 'object' && (value instanceof Error || 'then' in value)) return elsewhere();
        const serialized: unknown = type.serialize(value);
        return serialized == null ? elsewhere() : (JSON.stringify(serialized) ?? elsewhere());
      };
    }
    if (isListType(type)) {
      const inner = completing(type.ofType, nodes, info);
      return inner && ((value, context) => (value == null ? 'null' : listed(value, (one) => inner(one, context))));
    }
    const sets = selectionsOf(nodes);
    if (isObjectType(type)) {
      const object = writing(type, sets, info.path);
      return object && ((value, context) => (value == null ? 'null' : object(value, context)));
    }
    if (isAbstractType(type)) {
      const { resolveType } = type;
      if (!resolveType) return null;
      const objects = new Map(schema.getPossibleTypes(type).map((one) => [one.name, writing(one, sets, info.path)]));
      return (value, context) => {
        if (value == null) return 'null';
        if (value instanceof Error) return elsewhere();
        const name: unknown = resolveType(value, context, info, type);
        const object = typeof name === 'string' ? objects.get(name) : null;
        return object ? object(value, context) : elsewhere();
      };
    }
    return null;
  };

  const writing = (
    type: GraphQLObjectType,
    sets: Selections,
    above: GraphQLResolveInfo['path'] | undefined,
  ): Complete | null => {
    if (type.isTypeOf || type.extensions['pothosPrismaModel'] !== undefined) return null;
    const steps: ((source: unknown, context: Context) => string)[] = [];
    for (const [key, nodes] of fieldsOf(source, type, sets)) {
      const node = first(nodes);
      const begin = `${steps.length === 0 ? '{' : ','}${JSON.stringify(key)}:`;
      if (node.name.value === '__typename') {
        const whole = begin + JSON.stringify(type.name);
        steps.push(() => whole);
        continue;
      }
      const field = type.getFields()[node.name.value];
      if (!field) return null;
      if (getNamedType(field.type).extensions['pothosPrismaModel'] !== undefined) {
        const row = looking(field, nodes);
        if (!row) return null;
        steps.push((source) => begin + row(source));
        continue;
      }
      const info: GraphQLResolveInfo = {
        fieldName: field.name,
        fieldNodes: nodes,
        returnType: field.type,
        parentType: type,
        path: { prev: above, key, typename: type.name },
        schema,
        fragments: Object.fromEntries(fragments),
        get rootValue(): unknown {
          return elsewhere();
        },
        operation,
        variableValues,
      };
      const complete = completing(field.type, nodes, info);
      if (!complete) return null;
      let values: Record<string, unknown>;
      try {
        // The arguments of a stream were for its beginning.
        values = type === root ? nothing : getArgumentValues(field, node, variableValues);
      } catch {
        return null;
      }
      const resolve: GraphQLFieldResolver<unknown, Context> = field.resolve ?? defaultFieldResolver;
      steps.push((source, context) => {
        const value: unknown = resolve(source, values, context, info);
        if (typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function') {
          (value as Promise<unknown>).then(undefined, () => undefined); // the ordinary execution tells of it
          throw new Later();
        }
        return begin + complete(value, context);
      });
    }
    if (steps.length === 0) return () => '{}';
    return (source, context) => {
      let text = '';
      for (const step of steps) text += step(source, context);
      return `${text}}`;
    };
  };

  /** A field that tells the id of a row: what is asked of that is a part of a statement. */
  const looking = (
    field: GraphQLField<unknown, unknown>,
    nodes: readonly FieldNode[],
  ): ((source: unknown) => string) | null => {
    const { compiled, authScopes, errors } = optionsOf(field);
    if (typeof compiled !== 'object' || !('idOf' in compiled)) return null;
    if (authScopes !== undefined || errors !== undefined || field.args.length > 0 || hasRefusedPage()) return null;
    const text = rows.compile({
      ...source,
      type: field.type,
      nodes,
      model: compiled.one,
    });
    return (
      text &&
      ((source) => {
        const id = compiled.idOf(source as never);
        if (id === null) return isNonNullType(field.type) ? elsewhere() : 'null';
        return look(text, id);
      })
    );
  };
  const hasRefusedPage = (): boolean => {
    try {
      return isRefused(pagesOf(schema, document), variableValues);
    } catch {
      return true; // the ordinary execution tells what is wrong with them
    }
  };

  const data = writing(root, [operation.selectionSet], undefined);
  if (!data) return null;
  let later = false;
  return (item, context, readers) => {
    if (later) return null;
    const awaited: Promise<string | null>[] = [];
    look = (text, id) => {
      awaited.push(rows.load(text, id, readers));
      return hole;
    };
    try {
      const text = `{"data":${data(item, context)}}`;
      return awaited.length === 0 ? text : Promise.all(awaited).then((found) => filled(text, found));
    } catch (error) {
      // Whatever else went wrong goes wrong there again, and is told as an error of its place.
      later = error instanceof Later;
      return null;
    }
  };
}

/** Lists of what is there; what comes later, or went wrong, is left to the ordinary execution. */
function listed(value: unknown, inner: (one: unknown) => string): string {
  if (!Array.isArray(value)) return elsewhere();
  const texts = (value as unknown[]).map((one) =>
    one instanceof Error || (typeof one === 'object' && one !== null && 'then' in one) ? elsewhere() : inner(one),
  );
  return `[${texts.join(',')}]`;
}

/** A text with the rows in their places; null when one of them is to be had in the ordinary way only. */
function filled(text: string, rows: readonly (string | null)[]): string | null {
  const [head = '', ...parts] = text.split(hole);
  let whole = head;
  for (const [index, part] of parts.entries()) {
    const row = rows[index];
    if (row == null) return null;
    whole += row + part;
  }
  return whole;
}

/** What the field of a stream is given for an event. Its arguments differ among those who share what was compiled. */
const nothing: Record<string, unknown> = {};
