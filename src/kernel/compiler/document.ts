import {
  getDirectiveValues,
  GraphQLIncludeDirective,
  GraphQLSkipDirective,
  isAbstractType,
  Kind,
  type FieldNode,
  type FragmentDefinitionNode,
  type GraphQLObjectType,
  type GraphQLSchema,
  type SelectionSetNode,
} from 'graphql';
import { refuse, type Models } from './models.ts';

/** What something is compiled from. The variables hold those that its text depends on. */
export interface Source {
  readonly schema: GraphQLSchema;
  readonly models: Models;
  readonly fragments: ReadonlyMap<string, FragmentDefinitionNode>;
  readonly variables: Readonly<Record<string, unknown>>;
}

export type Selections = readonly SelectionSetNode[];
export type Fields = ReadonlyMap<string, readonly FieldNode[]>;

/** The fields that are asked of a type, by their names in the answer, in order. @see https://spec.graphql.org/October2021/#CollectFields() */
export function fieldsOf(source: Omit<Source, 'models'>, type: GraphQLObjectType, selections: Selections): Fields {
  const fields = new Map<string, FieldNode[]>();
  const seen = new Set<string>();
  const { schema, fragments, variables } = source;
  const applies = (condition: string | undefined): boolean => {
    if (condition === undefined || condition === type.name) return true;
    const named = schema.getType(condition);
    return isAbstractType(named) && schema.isSubType(named, type);
  };
  const collect = (set: SelectionSetNode): void => {
    for (const one of set.selections) {
      if (getDirectiveValues(GraphQLSkipDirective, one, variables)?.['if'] === true) continue;
      if (getDirectiveValues(GraphQLIncludeDirective, one, variables)?.['if'] === false) continue;
      if (one.kind === Kind.FIELD) {
        const key = (one.alias ?? one.name).value;
        const known = fields.get(key);
        if (known) known.push(one);
        else fields.set(key, [one]);
      } else if (one.kind === Kind.INLINE_FRAGMENT) {
        if (applies(one.typeCondition?.name.value)) collect(one.selectionSet);
      } else if (!seen.has(one.name.value)) {
        seen.add(one.name.value);
        const fragment = fragments.get(one.name.value) ?? refuse('a fragment that is not there');
        if (applies(fragment.typeCondition.name.value)) collect(fragment.selectionSet);
      }
    }
  };
  for (const set of selections) collect(set);
  return fields;
}

export const first = <T>([one]: readonly T[]): T => one ?? refuse('nothing is asked');

export const selectionsOf = (nodes: readonly FieldNode[]): SelectionSetNode[] =>
  nodes.flatMap(({ selectionSet }) => selectionSet ?? []);
