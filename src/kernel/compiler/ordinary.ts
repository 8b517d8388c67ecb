import {
  getNamedType,
  isInterfaceType,
  isObjectType,
  Kind,
  type FragmentDefinitionNode,
  type GraphQLField,
  type GraphQLNamedType,
  type GraphQLObjectType,
  type GraphQLSchema,
  type OperationDefinitionNode,
  type SelectionSetNode,
} from 'graphql';
import { isNode, optionsOf } from './types.ts';

/**
 * Whether an operation does not compile whatever its variables are, told by its fields alone: nothing else is then made
 * of it. False: it may compile.
 */
export function isOrdinary(
  schema: GraphQLSchema,
  operation: OperationDefinitionNode,
  fragments: ReadonlyMap<string, FragmentDefinitionNode>,
): boolean {
  const seen = new Set<string>();
  const query = schema.getQueryType();
  const applies = (condition: string | undefined, type: GraphQLNamedType): boolean => {
    if (condition === undefined || condition === type.name) return true;
    const named = schema.getType(condition);
    return isInterfaceType(named) && (isObjectType(type) || isInterfaceType(type)) && schema.isSubType(named, type);
  };
  const has = (type: GraphQLNamedType, { selections }: SelectionSetNode): boolean =>
    (isObjectType(type) || isInterfaceType(type)) &&
    selections.some((one) => {
      // It may be left out.
      if (one.directives && one.directives.length > 0) return false;
      if (one.kind === Kind.FIELD) {
        const name = one.name.value;
        if (name === '__typename') return false;
        const field = type.getFields()[name];
        if (!field) return true;
        if (isObjectType(type) && (type === query ? !isRoot(field) : isComputed(type, field))) return true;
        return one.selectionSet !== undefined && has(getNamedType(field.type), one.selectionSet);
      }
      if (one.kind === Kind.INLINE_FRAGMENT)
        return applies(one.typeCondition?.name.value, type) && has(type, one.selectionSet);
      const fragment = fragments.get(one.name.value);
      const key = `${type.name} ${one.name.value}`;
      if (!fragment || seen.has(key)) return false;
      seen.add(key);
      return applies(fragment.typeCondition.name.value, type) && has(type, fragment.selectionSet);
    });
  return !query || has(query, operation.selectionSet);
}

type Field = GraphQLField<unknown, unknown>;

const isRoot = (field: Field): boolean => {
  const { compiled } = optionsOf(field);
  return compiled === 'node' || compiled === 'nodes' || typeof compiled === 'object';
};

/** Whether a field of a row has a resolver that tells nothing of itself, or a guard of its own. */
function isComputed(type: GraphQLObjectType, field: Field): boolean {
  // What belongs to the library, such as an edge, is known by its name.
  if (type.extensions['pothosPrismaModel'] === undefined) return false;
  const { compiled, authScopes, errors } = optionsOf(field);
  if (authScopes !== undefined || errors !== undefined) return true;
  const { pothosExposedField, pothosPrismaRelationField, pothosPrismaFallback } = field.extensions;
  if ((field.name === 'id' && isNode(type)) || typeof compiled === 'object' || typeof pothosExposedField === 'string')
    return false;
  return (pothosPrismaRelationField === undefined && compiled !== 'selected') || pothosPrismaFallback !== undefined;
}
