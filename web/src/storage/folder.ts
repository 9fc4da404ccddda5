/** Where model files lie in the origin's own file system. */
export const FOLDER = "models";
