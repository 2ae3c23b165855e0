# A small stand-in for the part of nixpkgs' `lib` that module.nix uses, so that the module can be evaluated where
# there is no nixpkgs. It checks types and refuses undeclared options as the real one does; it knows nothing of
# documentation, apply functions, submodule arguments or positions. The flake's checks run the same cases with the
# real `lib`.
let
  inherit (builtins)
    all
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    genList
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    mapAttrs
    match
    stringLength
    substring
    tail
    ;

  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  genAttrs =
    names: f:
    listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  dotted = concatStringsSep ".";
  splitString = separator: text: filter isString (builtins.split separator text);
  isKind = kind: v: isAttrs v && (v._type or null) == kind;

  # Properties. A definition is a value wrapped in any number of these.
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  defaultPriority = 100;

  # Moves the properties of an attribute set to its values, without looking at any condition.
  pushDown =
    def:
    if isKind "merge" def then
      concatMap pushDown def.contents
    else if isKind "if" def then
      map (mapAttrs (_: mkIf def.condition)) (pushDown def.content)
    else if isKind "override" def then
      map (mapAttrs (_: mkOverride def.priority)) (pushDown def.content)
    else
      [ def ];

  # The definitions of one option that count, without their properties.
  discharge =
    defs:
    let
      flatten =
        priority: def:
        if isKind "merge" def then
          concatMap (flatten priority) def.contents
        else if isKind "if" def then
          (if def.condition then flatten priority def.content else [ ])
        else if isKind "override" def then
          flatten def.priority def.content
        else
          [
            {
              inherit priority;
              value = def;
            }
          ];
      flat = concatMap (flatten defaultPriority) defs;
      best = foldl' (m: d: if d.priority < m then d.priority else m) 1000000 flat;
    in
    map (d: d.value) (filter (d: d.priority == best) flat);

  # Types: a check of one definition, and a merge of all of them.
  mkType = name: check: {
    _type = "option-type";
    inherit name check;
    merge =
      path: defs:
      if all (d: d == head defs) defs then
        head defs
      else
        throw "The option `${dotted path}' has conflicting definition values.";
  };

  checked =
    type: path: defs:
    if all type.check defs then
      type.merge path defs
    else
      throw "A definition for option `${dotted path}' is not of type `${type.description or type.name}'.";

  anything = mkType "anything" (_: true) // {
    merge =
      path: defs:
      if all (d: isAttrs d && !(d ? outPath)) defs then
        mapAttrs (name: values: anything.merge (path ++ [ name ]) values) (zip path defs)
      else if all isList defs then
        concatLists defs
      else
        (mkType "anything" null).merge path defs;
  };

  # All definitions of each attribute; attributes whose definitions are all switched off disappear.
  zip =
    path: defs:
    let
      pushed = concatMap pushDown defs;
      names = unique (concatMap attrNames pushed);
      of = name: discharge (concatMap (d: if d ? ${name} then [ d.${name} ] else [ ]) pushed);
      some = filter (name: of name != [ ]) names;
    in
    genAttrs some of;

  listOf =
    item:
    mkType "list of ${item.name}" isList
    // {
      merge =
        path: defs:
        let
          items = concatLists defs;
          at = n: path ++ [ "[${toString n}]" ];
          one = n: checked item (at n) (discharge [ (builtins.elemAt items n) ]);
        in
        genList one (length items);
    };

  attrsOf =
    item:
    mkType "attribute set of ${item.name}" isAttrs
    // {
      merge = path: defs: mapAttrs (name: checked item (path ++ [ name ])) (zip path defs);
    };

  nullOr =
    item:
    mkType "null or ${item.description or item.name}" (v: v == null || item.check v)
    // {
      merge = path: defs: if all (d: d == null) defs then null else item.merge path defs;
    };

  either =
    one: other:
    mkType "${one.description or one.name} or ${other.name}" (v: one.check v || other.check v)
    // {
      merge = path: defs: (if all one.check defs then one else other).merge path defs;
    };

  submodule =
    module:
    mkType "submodule" isAttrs
    // {
      merge = path: defs: evalOptions (module.freeformType or null) path module.options defs;
    };

  strMatching =
    pattern:
    mkType "string matching the pattern ${pattern}" (v: isString v && match pattern v != null);

  types = {
    inherit
      anything
      attrsOf
      either
      listOf
      nullOr
      submodule
      strMatching
      ;
    bool = mkType "boolean" isBool;
    str = mkType "string" isString;
    enum = values: mkType "one of ${builtins.toJSON values}" (v: elem v values);
    ints.positive = mkType "positive integer, meaning >0" (v: isInt v && v > 0);
    ints.unsigned = mkType "unsigned integer, meaning >=0" (v: isInt v && v >= 0);
    package = mkType "package" (v: isAttrs v && v ? outPath);
    path = mkType "path" (v: isPath v || (isString v && hasPrefix "/" v));
  };

  mkOption = attrs: attrs // { _type = "option"; };

  # Evaluates a tree of options against definitions. Undeclared keys need a freeform type, as in nixpkgs.
  evalOptions =
    freeform: path: options: defs:
    let
      pushed = concatMap pushDown defs;
      of = name: concatMap (d: if d ? ${name} then [ d.${name} ] else [ ]) pushed;
      undeclared = filter (name: !(options ? ${name})) (unique (concatMap attrNames pushed));
      declared = mapAttrs (name: option: evalOption freeform (path ++ [ name ]) option (of name)) options;
      free = genAttrs undeclared (name: freeform.merge (path ++ [ name ]) (discharge (of name)));
    in
    if undeclared == [ ] then
      declared
    else if freeform == null then
      throw "The option `${dotted (path ++ [ (head undeclared) ])}' does not exist."
    else
      free // declared;

  evalOption =
    freeform: path: option: defs:
    let
      values = discharge defs;
      fallback = if option ? default then [ option.default ] else [ ];
      used = if values == [ ] then fallback else values;
    in
    if !(isKind "option" option) then
      evalOptions freeform path option defs
    else if (option.readOnly or false) && values != [ ] then
      throw "The option `${dotted path}' is read-only, but it's set multiple times."
    else if used == [ ] then
      throw "The option `${dotted path}' was accessed but has no value defined."
    else
      checked option.type path used;

  mergeTrees =
    a: b:
    a
    // mapAttrs (
      name: v:
      if a ? ${name} && !(isKind "option" v) then mergeTrees a.${name} v else v
    ) b;

  evalModules =
    {
      modules,
      specialArgs ? { },
    }:
    let
      args = specialArgs // {
        inherit config;
        lib = self;
      };
      load = m: if isPath m then load (import m) else if isFunction m then m args else m;
      full =
        m:
        if m ? config || m ? options then
          {
            options = m.options or { };
            config = m.config or { };
          }
        else
          {
            options = { };
            config = m;
          };
      loaded = map (m: full (load m)) modules;
      options = foldl' mergeTrees { } (map (m: m.options) loaded);
      config = evalOptions null [ ] options (map (m: m.config) loaded);
    in
    {
      inherit config options;
    };

  self = {
    inherit
      all
      attrNames
      attrValues
      concatMap
      elem
      evalModules
      filter
      genAttrs
      hasPrefix
      head
      isString
      mapAttrs
      mkDefault
      mkForce
      mkIf
      mkMerge
      mkOption
      splitString
      tail
      types
      ;
    inherit (builtins)
      any
      elemAt
      genList
      length
      replaceStrings
      ;
    optionalAttrs = condition: attrs: if condition then attrs else { };
    nameValuePair = name: value: { inherit name value; };
    mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
    importJSON = file: builtins.fromJSON (builtins.readFile file);
    mkEnableOption =
      what:
      mkOption {
        type = types.bool;
        default = false;
        description = "Whether to enable ${what}.";
      };
    literalExpression = text: {
      _type = "literalExpression";
      inherit text;
    };
  };
in
self
