import { execute, GraphQLError, visit, type ASTVisitor, type DocumentNode, type ValidationContext } from 'graphql';
import type { Plugin } from 'graphql-yoga';

/*
 * Names that a client chooses and JavaScript knows: of variables, and of fields in the answer. All that keeps them, here
 * and in the libraries, has them as own properties, but for these two.
 */

/** graphql-js and graphql-tools keep the values of variables in objects with a prototype, where this one is lost. */
export const variableNames = (context: ValidationContext): ASTVisitor => ({
  VariableDefinition(node) {
    if (node.variable.name.value !== '__proto__') return;
    context.reportError(new GraphQLError('A variable cannot be named "$__proto__" here.', { nodes: node.variable }));
  },
});

/**
 * The executor of graphql-tools takes every object that has a field `then` for a promise, also one of the answer: the
 * operation fails, a mutation after it was done. graphql-js looks whether it is a function.
 */
export const namedThen: Plugin = {
  onExecute({ args, setExecuteFn }) {
    if (hasThen(args.document)) setExecuteFn(execute);
  },
};

const known = new WeakMap<DocumentNode, boolean>();

function hasThen(document: DocumentNode): boolean {
  let found = known.get(document);
  if (found !== undefined) return found;
  found = false;
  visit(document, { Field: ({ alias, name }) => void (found ||= (alias ?? name).value === 'then') });
  known.set(document, found);
  return found;
}
