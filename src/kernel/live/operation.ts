import {
  getNamedType,
  getOperationAST,
  isAbstractType,
  isCompositeType,
  isInterfaceType,
  isObjectType,
  Kind,
  typeFromAST,
  visit,
  type ASTNode,
  type DocumentNode,
  type FieldNode,
  type GraphQLCompositeType,
  type GraphQLField,
  type GraphQLNamedType,
  type GraphQLSchema,
  type OperationDefinitionNode,
  type SelectionSetNode,
} from 'graphql';
import { isPersonal, rowRule } from '../auth/policy.ts';
import { isConnection } from '../graphql/builder.ts';
import type { Writer } from './writer.ts';

/**
 * What of an actor the answers to a document depend on. ROLE: on the role in the workspace that is followed, and nothing
 * else. PERSON: also on who it is and on all workspaces that they reach. CREDENTIAL: on the very credential.
 */
export type Dependence = 'ROLE' | 'PERSON' | 'CREDENTIAL';

/** What is known of a subscription's document, whoever subscribes with which variables. */
export interface Operation {
  readonly id: number;
  readonly dependence: Dependence;
  /** Names of variables that tell where to begin and nothing else. */
  readonly places: ReadonlySet<string>;
  /** Names of variables that are used below the root field. */
  readonly below: ReadonlySet<string>;
  /** By the values of those; null: there is none. */
  readonly writers: Map<string, Writer | null>;
}

let operations = 0;

export function operationOf(
  schema: GraphQLSchema,
  document: DocumentNode,
  operationName: string | null | undefined,
): Operation {
  const operation = getOperationAST(document, operationName);
  const root = schema.getSubscriptionType();
  if (!operation || !root) throw new Error('No subscription');
  const below = variablesBelow(document, operation);
  const begins = variablesOfAfter(document);
  return {
    id: ++operations,
    dependence: dependenceOf(schema, document, operation),
    places: new Set([...begins].filter((name) => !below.elsewhere.has(name))),
    below: below.inSelection,
    writers: new Map(),
  };
}

/** Variables that are the whole value of an argument `after` of a root field. */
function variablesOfAfter(document: DocumentNode): Set<string> {
  const found = new Set<string>();
  for (const field of rootFieldNodes(document))
    for (const { name, value } of field.arguments ?? [])
      if (name.value === 'after' && value.kind === Kind.VARIABLE) found.add(value.name.value);
  return found;
}

/** Where else variables are used. */
function variablesBelow(
  document: DocumentNode,
  operation: OperationDefinitionNode,
): { readonly elsewhere: ReadonlySet<string>; readonly inSelection: ReadonlySet<string> } {
  const roots = new Set<ASTNode>(rootFieldNodes(document));
  const elsewhere = new Set<string>();
  const inSelection = new Set<string>();
  const look = (node: ASTNode, ofRoot: boolean): void => {
    visit(node, {
      Variable(variable) {
        if (!ofRoot) inSelection.add(variable.name.value);
        elsewhere.add(variable.name.value);
      },
      VariableDefinition: () => false,
    });
  };
  visit(document, {
    VariableDefinition: () => false,
    Field(field) {
      if (!roots.has(field)) return undefined;
      for (const argument of field.arguments ?? [])
        if (argument.name.value !== 'after' || argument.value.kind !== Kind.VARIABLE) look(argument, true);
      for (const directive of field.directives ?? []) look(directive, false);
      if (field.selectionSet) look(field.selectionSet, false);
      return false;
    },
    Variable(variable) {
      inSelection.add(variable.name.value);
      elsewhere.add(variable.name.value);
    },
  });
  for (const directive of operation.directives ?? []) look(directive, false);
  return { elsewhere, inSelection };
}

/** The fields of the root of any operation of a document, also in fragments on the subscription type. */
function rootFieldNodes(document: DocumentNode): FieldNode[] {
  const found: FieldNode[] = [];
  const look = ({ selections }: SelectionSetNode): void => {
    for (const selection of selections) {
      if (selection.kind === Kind.FIELD) found.push(selection);
      else if (selection.kind === Kind.INLINE_FRAGMENT) look(selection.selectionSet);
    }
  };
  for (const definition of document.definitions) {
    if (definition.kind === Kind.OPERATION_DEFINITION) look(definition.selectionSet);
    else if (definition.kind === Kind.FRAGMENT_DEFINITION && definition.typeCondition.name.value === 'Subscription')
      look(definition.selectionSet);
  }
  return found;
}

const rank: Readonly<Record<Dependence, number>> = { ROLE: 0, PERSON: 1, CREDENTIAL: 2 };

/** The most that any field of a document depends on, whatever `@skip` and `@include` say. */
function dependenceOf(schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode): Dependence {
  let most: Dependence = 'ROLE';
  const seen = new Set<string>();
  /** What was looked at as which types: a field of an interface is that of each type that it may be, at each level. */
  const done = new Map<SelectionSetNode, Set<GraphQLCompositeType>>();
  const look = (type: GraphQLCompositeType, set: SelectionSetNode): void => {
    const types = done.get(set) ?? new Set();
    if (types.has(type)) return;
    done.set(set, types.add(type));
    for (const selection of set.selections) {
      if (selection.kind === Kind.FIELD) {
        for (const field of definitionsOf(schema, type, selection.name.value)) {
          const found = dependenceOfField(schema, field);
          if (rank[found] > rank[most]) most = found;
          const inner = getNamedType(field.type);
          if (selection.selectionSet && isCompositeType(inner)) look(inner, selection.selectionSet);
        }
      } else if (selection.kind === Kind.INLINE_FRAGMENT) {
        const on = selection.typeCondition ? typeFromAST(schema, selection.typeCondition) : type;
        if (isCompositeType(on)) look(on, selection.selectionSet);
      } else {
        const name = selection.name.value;
        const fragment = document.definitions.find(
          (one) => one.kind === Kind.FRAGMENT_DEFINITION && one.name.value === name,
        );
        if (fragment?.kind !== Kind.FRAGMENT_DEFINITION || seen.has(name)) continue;
        seen.add(name);
        const on = typeFromAST(schema, fragment.typeCondition);
        if (isCompositeType(on)) look(on, fragment.selectionSet);
      }
    }
  };
  const root = schema.getSubscriptionType();
  if (root) look(root, operation.selectionSet);
  return most;
}

/** A field as the type and those that it may turn out to be declare it. */
function definitionsOf(
  schema: GraphQLSchema,
  type: GraphQLCompositeType,
  name: string,
): GraphQLField<unknown, unknown>[] {
  const own = isObjectType(type) || isInterfaceType(type) ? type.getFields()[name] : undefined;
  const others = isAbstractType(type) ? schema.getPossibleTypes(type).map((one) => one.getFields()[name]) : [];
  return [own, ...others].filter((field) => field !== undefined);
}

function dependenceOfField(schema: GraphQLSchema, field: GraphQLField<unknown, unknown>): Dependence {
  if (field.extensions['ofCredential'] === true) return 'CREDENTIAL';
  const type = getNamedType(field.type);
  const models = [type, ...(isAbstractType(type) ? schema.getPossibleTypes(type) : [])].flatMap(modelsOf);
  return models.some((model) => isPersonal(rowRule(model))) ? 'PERSON' : 'ROLE';
}

/** The Prisma models that a type is of, or a page of. */
function modelsOf(type: GraphQLNamedType): string[] {
  const node = isConnection(type) && isObjectType(type) ? type.getFields()['nodes'] : undefined;
  const model = (node ? getNamedType(node.type) : type).extensions['pothosPrismaModel'];
  return typeof model === 'string' ? [model] : [];
}
