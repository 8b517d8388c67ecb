import {
  defaultFieldResolver,
  getArgumentValues,
  getDirectiveValues,
  getNamedType,
  getOperationAST,
  getVariableValues,
  GraphQLIncludeDirective,
  GraphQLSkipDirective,
  isAbstractType,
  isLeafType,
  isNonNullType,
  isObjectType,
  Kind,
  typeFromAST,
  type ExecutionArgs,
  type FieldNode,
  type FragmentDefinitionNode,
  type GraphQLFieldResolver,
  type GraphQLObjectType,
  type GraphQLOutputType,
  type GraphQLResolveInfo,
  type SelectionNode,
  type SelectionSetNode,
} from 'graphql';
import type { Context } from '../graphql/context.ts';

/**
 * The answer to one event as JSON text, `{"data":…}`; null where the ordinary execution has to give it: for whatever is
 * not at hand at once, or goes wrong.
 */
export type Compiled = (item: unknown, context: Context) => string | null;

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
 * Writes answers of a subscription whose fields are all at hand, such as an event's own, without building them first:
 * fields and arguments are looked up once, keys are quoted once, and nothing waits. It does what the ordinary execution
 * would, in the same order, and gives up at anything else.
 * @see https://spec.graphql.org/October2021/#sec-Executing-Selection-Sets
 */
export function compile(args: ExecutionArgs): Compiled | null {
  const { schema, document } = args;
  const operation = getOperationAST(document, args.operationName);
  const root = schema.getSubscriptionType();
  if (!operation || !root) return null;
  const given = getVariableValues(schema, operation.variableDefinitions ?? [], args.variableValues ?? {});
  if (!given.coerced) return null;
  const variableValues = given.coerced;
  const fragments: Record<string, FragmentDefinitionNode> = {};
  for (const one of document.definitions) if (one.kind === Kind.FRAGMENT_DEFINITION) fragments[one.name.value] = one;

  const wanted = (node: SelectionNode): boolean =>
    getDirectiveValues(GraphQLSkipDirective, node, variableValues)?.['if'] !== true &&
    getDirectiveValues(GraphQLIncludeDirective, node, variableValues)?.['if'] !== false;

  /** Fields by response key, in the order of the answer. */
  const collect = (type: GraphQLObjectType, sets: readonly SelectionSetNode[]): Map<string, FieldNode[]> => {
    const found = new Map<string, FieldNode[]>();
    const seen = new Set<string>();
    const applies = (condition: FragmentDefinitionNode['typeCondition'] | undefined): boolean => {
      if (!condition) return true;
      const on = typeFromAST(schema, condition);
      return on === type || (isAbstractType(on) && schema.isSubType(on, type));
    };
    const look = ({ selections }: SelectionSetNode): void => {
      for (const selection of selections) {
        if (!wanted(selection)) continue;
        if (selection.kind === Kind.FIELD) {
          const key = (selection.alias ?? selection.name).value;
          const nodes = found.get(key);
          if (nodes) nodes.push(selection);
          else found.set(key, [selection]);
        } else if (selection.kind === Kind.INLINE_FRAGMENT) {
          if (applies(selection.typeCondition)) look(selection.selectionSet);
        } else {
          const fragment = fragments[selection.name.value];
          if (!fragment || seen.has(selection.name.value)) continue;
          seen.add(selection.name.value);
          if (applies(fragment.typeCondition)) look(fragment.selectionSet);
        }
      }
    };
    for (const set of sets) look(set);
    return found;
  };

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
    const sets = nodes.flatMap(({ selectionSet }) => selectionSet ?? []);
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
    sets: readonly SelectionSetNode[],
    above: GraphQLResolveInfo['path'] | undefined,
  ): Complete | null => {
    if (type.isTypeOf || type.extensions['pothosPrismaModel'] !== undefined) return null;
    const steps: ((source: unknown, context: Context) => string)[] = [];
    for (const [key, nodes] of collect(type, sets)) {
      const [node] = nodes as [FieldNode];
      const begin = `${steps.length === 0 ? '{' : ','}${JSON.stringify(key)}:`;
      if (node.name.value === '__typename') {
        const whole = begin + JSON.stringify(type.name);
        steps.push(() => whole);
        continue;
      }
      const field = type.getFields()[node.name.value];
      // What is a row has to be looked up.
      if (!field || getNamedType(field.type).extensions['pothosPrismaModel'] !== undefined) return null;
      const info: GraphQLResolveInfo = {
        fieldName: field.name,
        fieldNodes: nodes,
        returnType: field.type,
        parentType: type,
        path: { prev: above, key, typename: type.name },
        schema,
        fragments,
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

  const data = writing(root, [operation.selectionSet], undefined);
  if (!data) return null;
  let later = false;
  return (item, context) => {
    if (later) return null;
    try {
      return `{"data":${data(item, context)}}`;
    } catch (error) {
      // Whatever else went wrong goes wrong there again, and is told as an error of its place.
      later = error instanceof Later;
      return null;
    }
  };
}

/** What the field of a stream is given for an event. Its arguments differ among those who share what was compiled. */
const nothing: Record<string, unknown> = {};
